// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Copying between a guest's console and standard input and output.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::low_level::pipe;

use super::terminal::{RawTerminal, pass_size_on};
use super::{DETACH_KEY, Detached};

/// How much may be typed ahead of a guest that does not read, in bytes.
const MAX_TYPED: usize = 64 * 1024;

/// Copies until the detach key is typed at a terminal, a signal to stop comes, or
/// the guest closes the console. When standard input ends, output goes on.
pub(super) fn copy(console: &File) -> io::Result<Detached> {
    let stdin = rustix::stdio::stdin();
    let (stop, stopped) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        pipe::register(signal, stopped.try_clone()?)?;
    }
    let (resize, resized) = UnixStream::pair()?;
    resize.set_nonblocking(true)?;
    resized.set_nonblocking(true)?;
    pipe::register(SIGWINCH, resize)?;
    pass_size_on(stdin, console);
    let raw = RawTerminal::enter(stdin)?;
    // The user can detach from a guest that does not read.
    rustix::io::ioctl_fionbio(console, true)?;
    let mut copying =
        Copying { console, stdin, is_raw: raw.is_some(), input_open: true, typed: Vec::new(), stop, resized };
    loop {
        if let Some(detached) = copying.step()? {
            return Ok(detached);
        }
    }
}

struct Copying<'a> {
    console: &'a File,
    stdin: BorrowedFd<'a>,
    /// Whether standard input is a terminal, now in raw mode.
    is_raw: bool,
    /// Whether standard input has not ended.
    input_open: bool,
    /// What the guest has not read yet.
    typed: Vec<u8>,
    /// Readable after a signal to stop.
    stop: UnixStream,
    /// Readable after the terminal has changed its size.
    resized: UnixStream,
}

impl Copying<'_> {
    /// Waits until there is something to do, and does it.
    fn step(&mut self) -> io::Result<Option<Detached>> {
        let writable = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut watched = vec![
            PollFd::new(self.console, PollFlags::IN | writable),
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.resized, PollFlags::IN),
        ];
        if self.input_open && self.typed.len() < MAX_TYPED {
            watched.push(PollFd::new(&self.stdin, PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, None))?;
        let mut ready = watched.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        let (console, stop, resized, input) = (next(), next(), next(), next());
        if console && !self.exchange()? {
            return Ok(Some(Detached::ByGuest));
        }
        if stop {
            return Ok(Some(Detached::BySignal));
        }
        if resized {
            let _ = self.resized.read(&mut [0; 64]);
            pass_size_on(self.stdin, self.console);
        }
        if input { self.read_input() } else { Ok(None) }
    }

    /// Prints what the guest has written, and gives it what was typed; returns
    /// whether its console is still open.
    fn exchange(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let length = match self.console.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // A pseudoterminal whose other side is closed.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Some(0),
            result => Some(result?),
        };
        if length == Some(0) {
            return Ok(false);
        }
        let mut stdout = io::stdout();
        stdout.write_all(buffer.get(..length.unwrap_or(0)).unwrap_or_default())?;
        stdout.flush()?;
        if !self.typed.is_empty() {
            match self.console.write(&self.typed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => drop(self.typed.drain(..result?)),
            }
        }
        Ok(true)
    }

    /// Takes what the user has typed, up to the detach key.
    fn read_input(&mut self) -> io::Result<Option<Detached>> {
        let mut buffer = [0; 4096];
        // Not through std's buffer, of which poll knows nothing.
        let length = rustix::io::retry_on_intr(|| rustix::io::read(self.stdin, &mut buffer))?;
        let read = buffer.get(..length).unwrap_or_default();
        self.input_open = length > 0;
        if !self.input_open && self.is_raw {
            // A raw terminal has no end of input but its own.
            return Ok(Some(Detached::BySignal));
        }
        let key = read.iter().position(|byte| *byte == DETACH_KEY).filter(|_| self.is_raw);
        self.typed.extend_from_slice(read.get(..key.unwrap_or(length)).unwrap_or_default());
        if key.is_none() {
            return Ok(None);
        }
        // What was typed before the key, as far as the guest takes it.
        let _ = self.console.write(&self.typed);
        Ok(Some(Detached::ByKey))
    }
}
