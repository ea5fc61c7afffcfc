// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum log`

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use clap::Args;
use clap_complete::ArgValueCompleter;

use super::completion::vm_names;
use super::{Exit, StateArgs};
use crate::base::colour;
use crate::base::printable::StreamFilter;
use crate::system::journal;

/// The longest line that is printed in one piece, in bytes; the journal's own limit.
const MAX_LINE_BYTES: u64 = 48 << 10;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// The VM's name
    #[arg(add = ArgValueCompleter::new(vm_names))]
    name: String,

    /// Go on with new lines until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Show only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,

    /// Show also the messages of the supervisor and of systemd; the second column names the sender
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &LogArgs) -> anyhow::Result<Exit> {
    // Also for a VM that cannot run any more.
    let name = args.state.installed().known(&args.name)?;
    let mut command = if args.all { journal::of_unit(&name) } else { journal::of_guest(&name) };
    if args.all {
        command.arg("--output=short-iso");
    }
    if args.follow {
        command.arg("--follow");
    }
    match (args.lines, args.follow) {
        (Some(lines), _) => drop(command.arg(format!("--lines={lines}"))),
        (None, true) => drop(command.arg("--lines=all")),
        (None, false) => {}
    }
    match pass_on(&mut command) {
        Ok(false) => Ok(Exit::Host),
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("the journal cannot be read")
        }
        _ => Ok(Exit::Fine),
    }
}

/// Runs journalctl and makes what it prints printable, since not every package's
/// `microvm-run` did that. Returns whether journalctl succeeded.
fn pass_on(command: &mut Command) -> io::Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    if let Some(pipe) = child.stdout.take() {
        let mut out = io::stdout().lock();
        let in_colour = AutoStream::choice(&out) != ColorChoice::Never;
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            let mut filter = StreamFilter::default();
            let printable = filter.push(&line) + &filter.finish();
            out.write_all(colour::of_line(&printable, in_colour).as_bytes())?;
            out.flush()?;
            line.clear();
        }
    }
    Ok(child.wait()?.success())
}
