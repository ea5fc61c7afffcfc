// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Messages to systemd's journal, apart from what a guest prints; and reading both.
//!
//! In a unit, the guest's serial console is standard output, and the guest decides
//! what appears there. So the program sends its own messages directly to the
//! journal's socket, under an identifier that no guest can use. Protocol:
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::OnceLock;

use crate::base::colour;
use crate::base::name::VmName;
use crate::base::printable::{Printable, StreamFilter};
use crate::system::{program, systemd};

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";
/// The identifier of this program's messages.
pub const IDENTIFIER: &str = "microvm-spectrum";

/// How much a message matters (`syslog(3)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// An event that is not an error.
    Info = 6,
    /// What a helper prints, which the guest can bring about at will. The journal's limit
    /// of a unit is for each of these levels, so a flood of this one drops no other.
    Debug = 7,
}

/// Whether standard error is the journal.
static CONNECTED: OnceLock<bool> = OnceLock::new();

/// Finds out whether standard error is the journal: `stream` is the value of the
/// environment variable `JOURNAL_STREAM` (`systemd.exec(5)`).
pub fn connect(stream: Option<&OsStr>) {
    let is_stderr = |stream: &OsStr| {
        let found = rustix::fs::fstat(rustix::stdio::stderr());
        found.is_ok_and(|found| stream == format!("{}:{}", found.st_dev, found.st_ino).as_str())
    };
    let _ = CONNECTED.set(stream.is_some_and(is_stderr));
}

/// Whether standard error is the journal; false before [`connect`].
pub fn is_connected() -> bool {
    CONNECTED.get().copied().unwrap_or_default()
}

/// Sends one message. One about a `vm` appears in the journal of that VM, too, if
/// root sends it.
///
/// # Errors
/// When there is no journal, or its socket does not take the message immediately.
pub fn send(priority: Priority, vm: Option<&VmName>, line: &str) -> io::Result<()> {
    // A line feed would end the field and begin another.
    let line = line.replace('\n', " ");
    let priority = priority as u8;
    let mut message = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nMESSAGE={line}\n");
    if let Some(vm) = vm {
        // The journal honours it in messages of root alone (`systemd.journal-fields(7)`).
        message.push_str(&format!("OBJECT_SYSTEMD_UNIT={}\n", systemd::unit(vm)));
    }
    let socket = UnixDatagram::unbound()?;
    // A journal that is stuck must not stop the supervisor.
    socket.set_nonblocking(true)?;
    socket.send_to(message.as_bytes(), SOCKET).map(drop)
}

/// The command that prints what a VM's guest has printed, as it is, to its serial console.
pub fn of_guest(vm: &VmName) -> Command {
    let mut command = of_unit(vm);
    // The identifier of this guest's output; a guest cannot choose another.
    command.arg(format!("--identifier=microvm@{vm}")).arg("--output=cat");
    command
}

/// The command that prints what the journal has of a VM's unit.
pub fn of_unit(vm: &VmName) -> Command {
    let mut command = Command::new("journalctl");
    command.arg(format!("--unit={}", systemd::unit(vm))).args(["--no-pager", "--quiet", "--all"]);
    command
}

/// The last lines that a VM's guest has printed to its serial console.
///
/// # Errors
/// When the journal cannot be read.
pub fn last_of_guest(vm: &VmName, lines: u32) -> io::Result<Vec<Printable>> {
    let printed = program::output(of_guest(vm).arg(format!("--lines={lines}")), "")?;
    let mut filter = StreamFilter::default();
    let text = filter.push(&printed) + &filter.finish();
    let plain = |line| colour::of_line(line, false).replace('\t', "    ");
    Ok(text.lines().map(|line| Printable::composed(plain(line))).collect())
}

/// Sends one message to the kernel's log, which systemd's generators have before
/// there is a journal (Linux' `Documentation/ABI/testing/dev-kmsg`).
///
/// # Errors
/// When this user cannot write there.
pub fn send_to_kernel(priority: Priority, line: &str) -> io::Result<()> {
    let mut log = File::options().write(true).open("/dev/kmsg")?;
    // One write is one message.
    log.write_all(format!("<{}>{}\n", priority as u8, line.replace('\n', " ")).as_bytes())
}
