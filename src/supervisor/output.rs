// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the guest and the helpers print, passed on in printable form.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use crate::base::name::VmName;
use crate::base::printable::{StreamFilter, printable};
use crate::system::journal::{self, Priority};
use crate::system::process::in_background;

/// The longest line of a helper that is passed on in one piece, in bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// How many messages wait for a reader of standard error before more are lost.
const MAX_WAITING: usize = 1024;
/// How long the last messages may wait for a reader.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the thread that prints receives.
enum Message {
    Line(String),
    Flush(Sender<()>),
}

/// The one thread that writes to standard error. It may block there, when the
/// reader is slow; the threads that have something to say never wait for it.
static PRINTER: LazyLock<Option<SyncSender<Message>>> = LazyLock::new(|| {
    let (sender, messages) = sync_channel(MAX_WAITING);
    let print = move || {
        for message in messages {
            match message {
                // A failure could only be reported here.
                Message::Line(line) => drop(writeln!(io::stderr(), "{line}")),
                Message::Flush(done) => drop(done.send(())),
            }
        }
    };
    in_background(print).ok().map(|()| sender)
});

/// Prints a line on standard error or, in a unit, sends it to the journal.
fn print_line(priority: Priority, line: String) {
    if journal::is_connected() && journal::send(priority, None, &line).is_ok() {
        return;
    }
    if let Some(printer) = &*PRINTER {
        let _ = printer.try_send(Message::Line(line));
    }
}

/// Prints a message about the VM.
pub(super) fn say(name: &VmName, text: &str) {
    print_line(Priority::Info, format!("microvm-spectrum: {name}: {}", printable(text)));
}

/// Prints the last lines, in printable form, after all messages before them; gives
/// up after a second when standard error is not read.
pub fn say_last(priority: Priority, lines: &str) {
    lines.lines().for_each(|line| print_line(priority, line.to_owned()));
    if let Some(printer) = &*PRINTER {
        let (done, wait) = channel();
        if printer.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(LAST_WORDS_TIMEOUT);
        }
    }
}

/// The last line that a helper printed; of Cloud Hypervisor's chain of errors, from what
/// failed down to the system's error, the first and the last.
#[derive(Debug, Clone, Default)]
pub(super) struct LastLine(Arc<Mutex<LastWords>>);

#[derive(Debug, Default)]
struct LastWords {
    /// The first of the chain of errors that the last line belongs to.
    first: Option<String>,
    last: Option<String>,
}

impl LastLine {
    pub fn get(&self) -> Option<String> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = words.first.as_ref().filter(|first| Some(*first) != words.last.as_ref());
        words.last.as_ref().map(|last| match first {
            Some(first) => format!("{first}: {last}"),
            None => last.clone(),
        })
    }

    fn set(&self, line: &str) {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match of_chain(line) {
            Some((level, error)) => {
                if level == 0 {
                    words.first = Some(error.to_owned());
                }
                words.last = Some(error.to_owned());
            }
            None => *words = LastWords { first: None, last: Some(line.to_owned()) },
        }
    }
}

/// The level and the text of an error in a chain of them (`cloud-hypervisor/src/lib.rs`,
/// `cli_print_error_chain`).
fn of_chain(line: &str) -> Option<(u32, &str)> {
    let (level, error) = line.strip_prefix("  ")?.split_once(": ")?;
    Some((level.parse().ok()?, error))
}

/// Passes the guest's serial output to standard output, until it ends.
///
/// Keeps reading when standard output is closed: a guest must not hang because its
/// log has no reader.
pub(super) fn pass_serial(mut pipe: File, ended: impl FnOnce() + Send + 'static) -> io::Result<()> {
    in_background(move || {
        let mut filter = StreamFilter::default();
        let mut buffer = [0; 8192];
        loop {
            let length = match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            print(&filter.push(buffer.get(..length).unwrap_or_default()));
        }
        print(&filter.finish());
        ended();
    })
}

fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Whether this line does not tell why a VMM ended: Cloud Hypervisor's log below
/// errors, and the end of clap's messages.
fn is_no_last_word(line: &str) -> bool {
    line.starts_with("For more information, try")
        || line.starts_with("Usage: ")
        || [" WARN:", " INFO:", " DEBUG:", " TRACE:"].iter().any(|level| line.contains(level))
}

/// Passes a helper's messages to standard error, a line at a time, with `who` before.
pub(super) fn pass_lines(
    pipe: File,
    who: String,
    last: LastLine,
    ended: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    in_background(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !text.is_empty() {
                let text = printable(&text);
                print_line(Priority::Debug, format!("{who}: {text}"));
                if !is_no_last_word(&text) {
                    last.set(&text);
                }
            }
            line.clear();
        }
        ended();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_chain_of_errors_first_and_last_count() {
        let last = LastLine::default();
        let after = |lines: &[&str]| {
            lines.iter().for_each(|line| last.set(line));
            last.get().unwrap()
        };
        assert_eq!(after(&["cannot set up guest memory"]), "cannot set up guest memory");
        let chain =
            ["Error: Cloud Hypervisor exited with the following chain of errors:", "  0: Error booting VM"];
        assert_eq!(after(&chain), "Error booting VM");
        let chain = ["  1: The VM could not boot", "  6: Invalid argument (os error 22)"];
        assert_eq!(after(&chain), "Error booting VM: Invalid argument (os error 22)");
        assert_eq!(after(&["  7 errors: many"]), "  7 errors: many");
    }
}
