// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The names of a VM's sockets and locks in the directory where it runs.
//!
//! A VM runs in the working directory of its supervisor (under systemd, the runtime
//! directory). All names are relative, because a Unix socket's path has at most 107
//! bytes, and begin with the VM's name, so that several VMs can share a directory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::base::name::VmName;

/// How often to try a lock again that another process holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The names of one VM's sockets and locks.
#[derive(Debug, Clone)]
pub struct SocketNames {
    name: VmName,
}

impl SocketNames {
    /// The names for the VM `name`.
    pub fn new(name: &VmName) -> Self {
        Self { name: name.clone() }
    }

    /// The supervisor's own control socket of the VMM.
    pub fn supervisor(&self) -> String {
        format!("{}.supervisor.sock", self.name)
    }

    /// The control socket of the VMM for all other processes.
    pub fn control(&self) -> String {
        format!("{}.control.sock", self.name)
    }

    /// Cloud Hypervisor's own lock of that socket, which it leaves behind.
    pub fn control_lock_of_vmm(&self) -> String {
        format!("{}.lock", self.control())
    }

    /// The virtio-console.
    pub fn console(&self) -> String {
        format!("{}.console.sock", self.name)
    }

    /// The virtiofsd of the share number `index`.
    pub fn virtiofsd(&self, index: usize) -> String {
        format!("{}.virtiofs-{index}.sock", self.name)
    }

    /// The passt of the uplink.
    pub fn uplink(&self) -> String {
        format!("{}.uplink.sock", self.name)
    }

    /// Bound by the process that serves the shared directories, for as long as it does: who
    /// has connected to it learns of its end. It answers nothing.
    pub fn servers(&self) -> String {
        format!("{}.virtiofs.sock", self.name)
    }

    /// The socket of the Wayland compositor, or a symbolic link to it, which may lead to
    /// nothing. The VMM connects to it when the guest opens a connection.
    pub fn wayland(&self) -> String {
        format!("{}.wayland.sock", self.name)
    }

    /// Held by the supervisor as long as the VM runs.
    pub fn run_lock(&self) -> String {
        format!("{}.run.lock", self.name)
    }

    /// Held by the process that is attached to the console.
    pub fn console_lock(&self) -> String {
        format!("{}.console.lock", self.name)
    }

    /// Held by the process that uses the control socket.
    pub fn control_lock(&self) -> String {
        format!("{}.control.lock", self.name)
    }

    /// The VMM's own sockets, which the supervisor removes.
    pub fn of_vmm(&self) -> [String; 3] {
        [self.supervisor(), self.control(), self.console()]
    }
}

/// An exclusive lock on a file; dropping it removes the file.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: String,
    left_behind: bool,
}

impl Lock {
    /// Takes the lock, if no other process holds it.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it; else when the file cannot be created
    /// or opened.
    pub fn try_take(path: &str) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(0o600);
            options.custom_flags(
                (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed(),
            );
            let (file, left_behind) = match options.clone().create_new(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    result => (result?, true),
                },
                result => (result?, false),
            };
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // Its last holder may have removed the file since it was opened here.
            if names_file(path, &file) {
                return Ok(Self { file, path: path.to_owned(), left_behind });
            }
        }
    }

    /// Takes the lock, and waits for another holder until `deadline`.
    ///
    /// # Errors
    /// `WouldBlock` when another process still holds it then; else see [`Lock::try_take`].
    pub fn take(path: &str, deadline: Instant) -> io::Result<Self> {
        loop {
            match Self::try_take(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                result => return result,
            }
        }
    }

    /// Whether the file existed already, because its last holder was killed.
    pub fn was_left_behind(&self) -> bool {
        self.left_behind
    }

    /// Whether a process holds the lock; leaves nothing behind. A lock that this user
    /// cannot open counts as another user's.
    pub fn is_held(path: &str) -> bool {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
        };
        let shared = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        shared == Err(Errno::WOULDBLOCK)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if names_file(&self.path, &self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn names_file(path: &str, file: impl AsFd) -> bool {
    let (Ok(named), Ok(open)) = (std::fs::symlink_metadata(path), rustix::fs::fstat(file)) else {
        return false;
    };
    (named.dev(), named.ino()) == (open.st_dev, open.st_ino)
}

/// Whether some process has this Unix stream socket bound.
///
/// It never connects to it: virtiofsd ends after its first client. A
/// datagram socket cannot connect to a stream socket, and the kernel's refusal
/// says whether one is bound (`EPROTOTYPE`) or only its file is left
/// (`ECONNREFUSED`), see `unix_find_other` in Linux' `net/unix/af_unix.c`.
pub fn is_bound(path: impl AsRef<Path>) -> bool {
    // Another user's socket may be bound.
    check_bound(path).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |()| true)
}

/// Like [`is_bound`], for a socket that this user needs.
///
/// # Errors
/// When no process has it bound, or this user may not connect to it.
pub fn check_bound(path: impl AsRef<Path>) -> io::Result<()> {
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTOTYPE) => Ok(()),
        result => result,
    }
}

/// Like [`is_bound`], for a path in a directory that belongs to another user: a link there is not
/// followed. `None` where this user may not look.
pub fn is_bound_at(path: impl AsRef<Path>) -> Option<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path.as_ref(), flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::ACCESS) => return None,
        Err(_) => return Some(false),
    };
    let is_socket =
        rustix::fs::fstat(&found).is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Socket);
    let bound = || check_bound(format!("/proc/self/fd/{}", found.as_raw_fd()));
    match is_socket.then(bound) {
        None => Some(false),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Some(bound) => Some(bound.is_ok()),
    }
}

/// Whether the file `path` exists and belongs neither to this user nor to root.
pub fn is_foreign(path: impl AsRef<Path>) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|found| found.uid() != own && found.uid() != 0)
}

/// Removes the socket file `path`, if it is one.
pub fn remove_socket(path: impl AsRef<Path>) {
    let path = path.as_ref();
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn names_are_short_enough() {
        let names = SocketNames::new(&VmName::new("n".repeat(64)).unwrap());
        let others = [names.virtiofsd(99), names.servers(), names.wayland(), names.uplink()];
        for name in names.of_vmm().into_iter().chain(others) {
            assert!(name.len() <= 107, "{name}");
        }
    }

    #[test]
    fn no_two_vms_share_a_name() {
        let mut seen = std::collections::BTreeSet::new();
        let words = [
            "run",
            "control",
            "console",
            "supervisor",
            "virtiofs",
            "virtiofs-0",
            "wayland",
            "uplink",
            "lock",
            "sock",
        ];
        let vms = ["vm".to_owned()].into_iter().chain(words.iter().map(|word| format!("vm.{word}")));
        let vms = vms.chain(words.iter().flat_map(|a| words.iter().map(move |b| format!("vm.{a}.{b}"))));
        for vm in vms {
            let names = SocketNames::new(&VmName::new(&vm).unwrap());
            let locks =
                [names.run_lock(), names.control_lock(), names.console_lock(), names.control_lock_of_vmm()];
            let others = [names.virtiofsd(0), names.servers(), names.wayland(), names.uplink()];
            for name in names.of_vmm().into_iter().chain(locks).chain(others) {
                assert!(seen.insert(name.clone()), "another VM also has the name {name} of {vm}");
            }
        }
    }

    #[test]
    fn a_lock_excludes_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.lock").to_str().unwrap().to_owned();
        assert!(!Lock::is_held(&path));
        let lock = Lock::try_take(&path).unwrap();
        assert!(Lock::is_held(&path));
        assert_eq!(Lock::try_take(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let soon = Instant::now() + Duration::from_millis(50);
        assert_eq!(Lock::take(&path, soon).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!lock.was_left_behind());
        drop(lock);
        assert!(!Path::new(&path).exists() && !Lock::is_held(&path));
        drop(Lock::try_take(&path).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(Lock::try_take(&path).unwrap().was_left_behind());
    }

    #[test]
    fn one_holder_at_a_time_however_many_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.lock").to_str().unwrap().to_owned();
        let holders = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(_lock) = Lock::try_take(&path) {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(holders.fetch_add(1, SeqCst), 0);
                            std::thread::yield_now();
                            holders.fetch_sub(1, SeqCst);
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn tells_a_bound_socket_without_connecting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(!is_bound(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(is_bound(&path));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(is_bound_at(&path), Some(true));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(is_bound(&link));
        assert_eq!(is_bound_at(&link), Some(false), "a link was followed");
        drop(listener);
        assert!(path.exists() && !is_bound(&path));
        assert_eq!(is_bound_at(&path), Some(false));
        assert_eq!(is_bound_at(dir.path().join("none")), Some(false));
        remove_socket(&path);
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert!(!is_bound(&path));
        remove_socket(&path);
        assert!(path.exists(), "a plain file is not ours to remove");
    }
}
