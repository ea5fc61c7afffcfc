// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum log`

use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};

use clap::Args;

use super::vms::Vms;
use super::{Exit, StateArgs, report};
use crate::base::printable::StreamFilter;
use crate::system::systemd;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// The VM's name
    name: String,

    /// Show what comes, too, until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Show only so many lines, the last ones
    #[arg(short = 'n', long, value_name = "N")]
    lines: Option<u32>,

    /// Show what the supervisor and systemd say, too; the second column tells who
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &LogArgs) -> Exit {
    let vms = Vms::of(&args.state.state_dir);
    // Also of a VM that cannot run any more.
    let Ok(name) = vms.known(&args.name) else { return Exit::Input };
    let mut command = Command::new("journalctl");
    command.arg(format!("--unit={}", systemd::unit(&name))).args(["--no-pager", "--quiet", "--all"]);
    if args.all {
        command.arg("--output=short-iso");
    } else {
        // A guest cannot take another identifier, and nobody else has this one.
        command.arg(format!("--identifier=microvm@{name}")).arg("--output=cat");
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
        Ok(true) => Exit::Fine,
        Ok(false) => Exit::Host,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Fine,
        Err(error) => {
            report::line(&format!("the journal cannot be read: {error}"));
            Exit::Host
        }
    }
}

/// Runs journalctl; what it prints is made printable, since not every package's
/// `microvm-run` does that.
fn pass_on(command: &mut Command) -> io::Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdout.take() {
        let mut filter = StreamFilter::default();
        let mut out = io::stdout().lock();
        let mut buffer = [0; 8192];
        loop {
            let length = match pipe.read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            out.write_all(filter.push(buffer.get(..length).unwrap_or_default()).as_bytes())?;
            out.flush()?;
        }
        out.write_all(filter.finish().as_bytes())?;
    }
    Ok(child.wait()?.success())
}
