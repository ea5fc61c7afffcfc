// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The user's terminal while it is attached to a console.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{OptionalActions, Termios};

/// A terminal in raw mode, which is restored when this value is dropped.
pub(super) struct RawTerminal<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawTerminal<'a> {
    /// Sets raw mode; `None` when `terminal` is no terminal.
    pub fn enter(terminal: BorrowedFd<'a>) -> io::Result<Option<Self>> {
        if !rustix::termios::isatty(terminal) {
            return Ok(None);
        }
        let before = rustix::termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Self { terminal, before }))
    }
}

impl Drop for RawTerminal<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
        // The guest may have left it in any colour, without a cursor, or with
        // line-drawing characters: DECSTR, VT220 Programmer Reference Manual.
        let mut stdout = io::stdout();
        if rustix::termios::isatty(&stdout) {
            let _ = stdout.write_all(b"\x1b[!p").and_then(|()| stdout.flush());
        }
    }
}

/// Gives a guest's console the size of the user's terminal, where both are terminals.
pub(super) fn pass_size_on(terminal: impl AsFd, console: impl AsFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(terminal) {
        let _ = rustix::termios::tcsetwinsize(console, size);
    }
}
