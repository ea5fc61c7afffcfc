// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Connecting to the sockets of a VMM, which may not answer.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::running::timed_out;

/// Connects to a VMM's socket; while too many others wait for it to accept them, so does
/// this, until `deadline` (`SO_SNDTIMEO` in `socket(7)`).
pub(super) fn connect(path: &str, deadline: Instant) -> io::Result<UnixStream> {
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(remaining(deadline)))?;
    match net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(Errno::AGAIN) => Err(timed_out("the VMM did not accept the connection in time")),
        result => {
            result?;
            net::sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
            Ok(socket.into())
        }
    }
}

/// The time until `deadline`; a socket's time-out cannot be zero.
pub(super) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_wait_forever_behind_other_clients() {
        let soon = || Instant::now() + Duration::from_millis(500);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket").to_str().unwrap().to_owned();
        let listener = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(path.as_str()).unwrap()).unwrap();
        net::listen(&listener, 0).unwrap();
        let _first = connect(&path, soon()).unwrap();
        let (told, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(connect(&path, soon()).unwrap_err().kind()));
        let kind = wait.recv_timeout(Duration::from_secs(20));
        assert_eq!(kind, Ok(io::ErrorKind::TimedOut));
    }
}
