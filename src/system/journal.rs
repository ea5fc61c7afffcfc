// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Messages to systemd's journal, apart from what a guest prints.
//!
//! In a unit, the guest's serial console is standard output, and a guest can
//! print whatever it likes. So what the program itself says goes to the journal
//! by another way and under a name of its own, which no guest can take. The
//! protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::LazyLock;

use crate::base::name::VmName;
use crate::system::systemd;

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Whose messages these are.
pub const IDENTIFIER: &str = "microvm-spectrum";

/// How much a message matters (`syslog(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// What happened.
    Info = 6,
}

/// Whether standard error is the journal (`JOURNAL_STREAM` in `systemd.exec(5)`).
pub fn is_connected() -> bool {
    static CONNECTED: LazyLock<bool> = LazyLock::new(|| {
        let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
        let Ok(found) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
        stream == format!("{}:{}", found.st_dev, found.st_ino)
    });
    *CONNECTED
}

/// Sends one message; `vm` is whom root says it about, so that it stands in
/// that VM's journal, too.
///
/// # Errors
/// The system's error.
pub fn send(priority: Priority, vm: Option<&VmName>, line: &str) -> io::Result<()> {
    // One line a field: a line feed would begin another field.
    let line = line.replace('\n', " ");
    let priority = priority as u8;
    let mut message = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={line}\n");
    if let Some(vm) = vm {
        // Counts for messages of root alone (`systemd.journal-fields(7)`).
        message.push_str(&format!("OBJECT_SYSTEMD_UNIT={}\n", systemd::unit(vm)));
    }
    let socket = UnixDatagram::unbound()?;
    // Nobody waits for a journal that does not take it.
    socket.set_nonblocking(true)?;
    socket.send_to(message.as_bytes(), SOCKET).map(drop)
}
