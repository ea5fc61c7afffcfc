// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Passes bytes and descriptors between a VM and a compositor that has no security contexts.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::system::process::in_background;

/// The most connections of one VM at a time: a program in the guest has one.
const MAX_CONNECTIONS: usize = 64;
/// The most descriptors of one message (`SCM_MAX_FD` in `unix(7)`).
const MAX_DESCRIPTORS: usize = 253;
/// How much passes at a time.
const CHUNK_BYTES: usize = 16 * 1024;
/// How long to wait when the host has no more descriptors or threads.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections of one VM to the compositor.
pub(super) struct Relay {
    listener: UnixListener,
    compositor: PathBuf,
    /// Each direction of a connection holds a clone.
    open: Arc<()>,
}

impl Relay {
    /// Connects those who come to `listener` with the compositor's socket.
    ///
    /// # Errors
    /// When the listener cannot be made non-blocking.
    pub fn new(listener: UnixListener, compositor: PathBuf) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, compositor, open: Arc::new(()) })
    }

    /// What can be read when there is a connection.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes a connection that waits.
    pub fn accept(&self) {
        let taken = self.listener.accept().and_then(|(vm, _)| self.connect(vm));
        if taken.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            std::thread::sleep(PAUSE);
        }
    }

    fn connect(&self, vm: UnixStream) -> io::Result<()> {
        if Arc::strong_count(&self.open) > 2 * MAX_CONNECTIONS {
            return Ok(());
        }
        vm.set_nonblocking(false)?;
        let Ok(compositor) = UnixStream::connect(&self.compositor) else { return Ok(()) };
        let (from, to) = (vm.try_clone()?, compositor.try_clone()?);
        let open = Arc::clone(&self.open);
        in_background(move || pass_all(&from, &to, open))?;
        let open = Arc::clone(&self.open);
        in_background(move || pass_all(&compositor, &vm, open))
    }
}

/// Passes all that comes from one end to the other, until one of them ends.
fn pass_all(from: &UnixStream, to: &UnixStream, _open: Arc<()>) {
    while pass(from, to).is_ok_and(|passed| passed) {}
    // The other direction passes what has come already, and then ends, too.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Read);
}

/// Passes what has come; false at the end.
fn pass(from: &UnixStream, to: &UnixStream) -> io::Result<bool> {
    let mut bytes = [0; CHUNK_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received =
        rustix::io::retry_on_intr(|| recvmsg(from, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let mut rest = bytes.get(..received.bytes).unwrap_or_default();
    // Descriptors belong to the bytes that they came with.
    let mut descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    let passed = !rest.is_empty();
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match sendmsg(to, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => continue,
            sent => rest = rest.get(sent?..).unwrap_or_default(),
        }
        descriptors.clear();
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Sends bytes and the reading ends of pipes that hold one of these letters each.
    fn send(to: &UnixStream, bytes: &[u8], letters: &[u8]) {
        let pipes: Vec<_> = letters
            .iter()
            .map(|letter| {
                let (read, mut write) = io::pipe().unwrap();
                write.write_all(&[*letter]).unwrap();
                read
            })
            .collect();
        let pipes: Vec<_> = pipes.iter().map(|pipe| pipe.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&pipes)));
        let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// Receives so many bytes, and what the descriptors with them hold.
    fn receive(from: &UnixStream, length: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut bytes, mut letters) = (Vec::new(), Vec::new());
        while bytes.len() < length {
            let mut part = vec![0; length - bytes.len()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let into = &mut [IoSliceMut::new(&mut part)];
            let received = recvmsg(from, into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
            assert_ne!(received, 0, "the end came after {} bytes", bytes.len());
            bytes.extend(&part[..received]);
            for message in control.drain() {
                let RecvAncillaryMessage::ScmRights(pipes) = message else { continue };
                for pipe in pipes {
                    File::from(pipe).read_to_end(&mut letters).unwrap();
                }
            }
        }
        (bytes, letters)
    }

    /// A relay, and where its compositor listens.
    fn relay() -> (tempfile::TempDir, Relay, UnixListener, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (vms, compositors) = (dir.path().join("vm"), dir.path().join("compositor"));
        let compositor = UnixListener::bind(&compositors).unwrap();
        let relay = Relay::new(UnixListener::bind(&vms).unwrap(), compositors).unwrap();
        (dir, relay, compositor, vms)
    }

    /// Waits until no connection is left.
    fn wait_for_the_end(relay: &Relay) {
        for _ in 0..10_000 {
            if Arc::strong_count(&relay.open) == 1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("connections are left");
    }

    #[test]
    fn bytes_and_descriptors_pass_both_ways_until_the_end() {
        let (_dir, relay, compositor, vms) = relay();
        let vm = UnixStream::connect(&vms).unwrap();
        relay.accept();
        let (client, _) = compositor.accept().unwrap();
        send(&vm, b"with two", b"ab");
        send(&vm, b"without", b"");
        send(&vm, b"with one", b"c");
        assert_eq!(receive(&client, 23), (b"with twowithoutwith one".to_vec(), b"abc".to_vec()));
        // More than passes at a time, both ways at once.
        let much = vec![7; 40 * CHUNK_BYTES];
        std::thread::scope(|scope| {
            for stream in [&vm, &client] {
                scope.spawn(|| (&*stream).write_all(&much).unwrap());
                scope.spawn(|| assert_eq!(receive(stream, much.len()).0, much));
            }
        });
        let most = vec![b'm'; MAX_DESCRIPTORS];
        send(&client, b"!", &most);
        assert_eq!(receive(&vm, 1), (b"!".to_vec(), most));
        // The last words of the compositor reach the VM.
        send(&client, b"error", b"");
        drop(client);
        assert_eq!(receive(&vm, 5).0, b"error");
        assert_eq!((&vm).read(&mut [0]).unwrap(), 0);
        drop(vm);
        wait_for_the_end(&relay);
    }

    #[test]
    fn a_vm_has_a_limit_of_connections() {
        let (_dir, relay, _compositor, vms) = relay();
        let connect = || {
            let vm = UnixStream::connect(&vms).unwrap();
            relay.accept();
            vm
        };
        let all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
        assert_eq!(connect().read(&mut [0]).unwrap(), 0, "one too many");
        drop(all);
        wait_for_the_end(&relay);
        let vm = connect();
        vm.set_nonblocking(true).unwrap();
        assert_eq!((&vm).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
