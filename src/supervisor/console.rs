// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Attaching a terminal to a guest's virtio-console.
//!
//! Here, and only here, a guest's bytes reach the terminal as they are: that is
//! what a console is for. The terminal is raw meanwhile and restored however
//! the attachment ends.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

use crate::hypervisor::Console;

/// The key that detaches, Ctrl-] as in telnet, virsh and machinectl.
pub const DETACH_KEY: u8 = 0x1d;

/// How much may be typed ahead of a guest that does not read, in bytes.
const MAX_TYPED: usize = 64 * 1024;

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// The user pressed the detach key.
    ByKey,
    /// A signal asked the program to end, or the terminal is gone.
    BySignal,
    /// The guest or its VMM closed the console.
    ByGuest,
}

/// Keeps the size of a guest's console the size of the user's terminal.
struct Size<'a> {
    terminal: BorrowedFd<'a>,
    console: &'a File,
}

impl Size<'_> {
    /// Passes the size on, where the console is a terminal, too.
    fn pass_on(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(self.terminal) {
            let _ = rustix::termios::tcsetwinsize(self.console, size);
        }
    }
}

/// What a user types in the guest to tell it the terminal's size, where the
/// console cannot.
pub fn size_hint(console: &Console) -> Option<String> {
    if rustix::termios::isatty(&console.0) {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then(|| format!("stty rows {} cols {}", size.ws_row, size.ws_col))
}

/// A terminal in raw mode, which is restored when this value is dropped.
struct RawTerminal<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawTerminal<'a> {
    /// Sets raw mode; `None` when `terminal` is no terminal.
    fn enter(terminal: BorrowedFd<'a>) -> io::Result<Option<Self>> {
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

/// Copies between the console and standard input and output, until the detach
/// key is typed at a terminal, a signal to stop comes, or the guest closes the
/// console.
///
/// When standard input ends, output goes on until the guest closes it.
///
/// # Errors
/// The system's error.
pub fn attach(console: Console) -> io::Result<Detached> {
    let console = File::from(console.0);
    let (stdin, mut stdout) = (rustix::stdio::stdin(), io::stdout());
    let (stop, stopped) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::low_level::pipe::register(signal, stopped.try_clone()?)?;
    }
    let (resize, mut resized) = UnixStream::pair()?;
    resize.set_nonblocking(true)?;
    resized.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGWINCH, resize)?;
    let size = Size { terminal: stdin, console: &console };
    size.pass_on();
    let raw = RawTerminal::enter(stdin)?;
    // A guest that does not read must keep nobody from detaching.
    rustix::io::ioctl_fionbio(&console, true)?;
    let mut typed = Vec::new();
    let mut buffer = [0; 4096];
    let mut input_open = true;
    loop {
        let writable = if typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds = vec![
            PollFd::new(&console, PollFlags::IN | writable),
            PollFd::new(&stop, PollFlags::IN),
            PollFd::new(&resized, PollFlags::IN),
        ];
        if input_open && typed.len() < MAX_TYPED {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            let length = match (&console).read(&mut buffer) {
                // A pseudoterminal whose other side is closed.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Some(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                result => Some(result?),
            };
            if length == Some(0) {
                return Ok(Detached::ByGuest);
            }
            stdout.write_all(buffer.get(..length.unwrap_or(0)).unwrap_or_default())?;
            stdout.flush()?;
            if !typed.is_empty() {
                match (&console).write(&typed) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => drop(typed.drain(..result?)),
                }
            }
        }
        if ready.get(1) == Some(&true) {
            return Ok(Detached::BySignal);
        }
        if ready.get(2) == Some(&true) {
            let _ = resized.read(&mut buffer);
            size.pass_on();
        }
        if ready.get(3) == Some(&true) {
            // Not through std's buffer, behind which poll would not see.
            let length = rustix::io::retry_on_intr(|| rustix::io::read(stdin, &mut buffer))?;
            let read = buffer.get(..length).unwrap_or_default();
            input_open = length > 0;
            if !input_open && raw.is_some() {
                // A raw terminal has no end of input but that of the terminal.
                return Ok(Detached::BySignal);
            }
            let key = read.iter().position(|b| *b == DETACH_KEY).filter(|_| raw.is_some());
            typed.extend_from_slice(read.get(..key.unwrap_or(length)).unwrap_or_default());
            if key.is_some() {
                // What was typed before the key, as far as the guest takes it.
                let _ = (&console).write(&typed);
                return Ok(Detached::ByKey);
            }
        }
    }
}
