// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Attaching a terminal to a guest's virtio-console.
//!
//! Here, and only here, a guest's bytes reach the terminal as they are: that is
//! what a console is for. The terminal is raw meanwhile and restored however
//! the attachment ends.

mod copying;
mod terminal;

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::base::name::VmName;
use crate::hypervisor::running::{Console, EXCHANGE_TIMEOUT};
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames};
use crate::state::directory::RUNTIME_DIRECTORY;
use crate::system::process::{self, Identity};

/// The key that detaches, Ctrl-] as in telnet, virsh and machinectl.
pub const DETACH_KEY: u8 = b']' - 0x40;

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The user pressed the detach key.
    ByKey,
    /// A signal asked the program to end, or the terminal is gone.
    BySignal,
    /// The guest or its VMM closed the console.
    ByGuest,
    /// Standard input, which was no terminal, has ended, and so has the guest's answer.
    ByEndOfInput,
}

/// Why a terminal cannot be attached to a console, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The VM does not run in the working directory.
    #[error("{0} does not run in this directory")]
    NotRunning(VmName),
    /// Two readers would share the guest's output between them.
    #[error("another process is attached to the console of {0} already")]
    InUse(VmName),
    /// The lock that keeps it for one cannot be taken.
    #[error("the console of {0} cannot be locked: {1}")]
    Lock(VmName, io::Error),
    /// The VMM does not open it, or copying failed.
    #[error("the console of {0}: {1}")]
    Io(VmName, io::Error),
}

/// Enters the directory where systemd runs a VM and, for root, becomes the VM's
/// user: the files there are that user's, and root must not follow them.
///
/// Must be called before there is another thread.
///
/// # Errors
/// `NotFound` when the VM does not run; `PermissionDenied` when the caller is
/// neither root nor the VM's user.
pub fn become_its_user(name: &VmName) -> io::Result<()> {
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty())?;
    let owner = rustix::fs::fstat(&directory)?;
    if rustix::process::geteuid().is_root() {
        Identity { user: owner.st_uid, group: owner.st_gid }.assume()?;
    }
    Ok(rustix::process::fchdir(&directory)?)
}

/// The console of a VM, for this process alone.
pub struct Attachable {
    name: VmName,
    console: Console,
    _lock: Lock,
}

impl Attachable {
    /// Opens the console of the VM that runs in this directory.
    ///
    /// # Errors
    /// See [`ConsoleError`].
    pub fn open(plan: &Plan) -> Result<Self, ConsoleError> {
        process::keep_files_private();
        let name = || plan.name.clone();
        let sockets = SocketNames::new(&plan.name);
        if !Lock::is_held(&sockets.run_lock()) {
            return Err(ConsoleError::NotRunning(name()));
        }
        let lock = Lock::try_take(&sockets.console_lock()).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => ConsoleError::InUse(name()),
            _ => ConsoleError::Lock(name(), error),
        })?;
        let console = crate::hypervisor::running(plan, EXCHANGE_TIMEOUT).open_console();
        let console = console.map_err(|error| ConsoleError::Io(name(), error))?;
        Ok(Self { name: name(), console, _lock: lock })
    }

    /// What a user types in the guest to set the terminal's size, where the
    /// console cannot pass it on.
    pub fn size_hint(&self) -> Option<String> {
        if rustix::termios::isatty(&self.console.0) {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
        (size.ws_row > 0 && size.ws_col > 0)
            .then(|| format!("stty rows {} cols {}", size.ws_row, size.ws_col))
    }

    /// Copies between the console and standard input and output, until the detach
    /// key is typed at a terminal, a signal to stop comes, the guest closes the
    /// console, or an input that is no terminal ends and the guest is silent for a
    /// second. Calls `no_answer` when the guest shows nothing of what was typed.
    ///
    /// # Errors
    /// [`ConsoleError::Io`] when reading or writing fails.
    pub fn attach(self, no_answer: &dyn Fn()) -> Result<Detached, ConsoleError> {
        copying::copy(&File::from(self.console.0), no_answer)
            .map_err(|error| ConsoleError::Io(self.name, error))
    }
}
