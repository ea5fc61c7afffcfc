// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Copying between a guest's console and standard input and output.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::low_level::pipe;

use super::terminal::{RawTerminal, pass_size_on};
use super::{DETACH_KEY, Detached};

/// How much may be typed ahead of a guest that does not read, in bytes.
const MAX_TYPED: usize = 64 * 1024;
/// After the end of input, the guest has said everything when it says nothing for so long.
const QUIET: Duration = Duration::from_secs(1);
/// A guest that has a shell on its console shows what is typed sooner than this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Copies until the detach key is typed at a terminal, a signal to stop comes, the
/// guest closes the console, or an input that is no terminal ends and the guest has
/// answered. Calls `no_answer` once if someone types and the guest shows nothing.
pub(super) fn copy(console: &File, no_answer: &dyn Fn()) -> io::Result<Detached> {
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
    let mut copying = Copying {
        console,
        stdin,
        is_raw: raw.is_some(),
        input_open: true,
        typed: Vec::new(),
        awaited: false,
        heard: false,
        last: Instant::now(),
        stop,
        resized,
    };
    loop {
        if let Some(detached) = copying.step(no_answer)? {
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
    /// Whether something was typed, and the guest has shown nothing yet.
    awaited: bool,
    /// Whether the guest has ever shown something.
    heard: bool,
    /// When something was last typed or shown.
    last: Instant,
    /// Readable after a signal to stop.
    stop: UnixStream,
    /// Readable after the terminal has changed its size.
    resized: UnixStream,
}

impl Copying<'_> {
    /// Waits until there is something to do, and does it.
    fn step(&mut self, no_answer: &dyn Fn()) -> io::Result<Option<Detached>> {
        let writable = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut watched = vec![
            PollFd::new(self.console, PollFlags::IN | writable),
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.resized, PollFlags::IN),
        ];
        if self.input_open && self.typed.len() < MAX_TYPED {
            watched.push(PollFd::new(&self.stdin, PollFlags::IN));
        }
        let timeout = self.silence().map(|silence| {
            let left = silence.saturating_sub(self.last.elapsed());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, timeout.as_ref()))?;
        if ready == 0 {
            if std::mem::take(&mut self.awaited) {
                no_answer();
            }
            return Ok((!self.input_open).then_some(Detached::ByEndOfInput));
        }
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

    /// How long nothing may happen before this ends or the user is told.
    fn silence(&self) -> Option<Duration> {
        match (self.awaited, self.input_open) {
            (true, _) => Some(PATIENCE),
            (false, false) => Some(if self.typed.is_empty() { QUIET } else { PATIENCE }),
            (false, true) => None,
        }
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
        if length.is_some() {
            (self.awaited, self.heard, self.last) = (false, true, Instant::now());
        }
        let mut stdout = io::stdout();
        stdout.write_all(buffer.get(..length.unwrap_or(0)).unwrap_or_default())?;
        stdout.flush()?;
        if !self.typed.is_empty() {
            match self.console.write(&self.typed) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.typed.drain(..result?);
                    self.last = Instant::now();
                }
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
        self.last = Instant::now();
        self.awaited |= self.input_open && !self.heard;
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
