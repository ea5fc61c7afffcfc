// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum check`

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Exit, LocationArgs, host_architecture, read_definition, report};
use crate::manifest::HypervisorName;
use crate::printable::printable;
use crate::problem::{Problem, Severity};

/// The version of the JSON document that `--json` prints.
const REPORT_VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// VM directories
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// The hypervisor that is to run them
    #[arg(long, value_enum, default_value_t = HypervisorName::CloudHypervisor)]
    hypervisor: HypervisorName,

    #[command(flatten)]
    location: LocationArgs,
}

#[derive(Serialize)]
struct Report {
    version: u32,
    errors: usize,
    notes: usize,
    directories: Vec<DirectoryReport>,
}

#[derive(Serialize)]
struct DirectoryReport {
    directory: String,
    problems: Vec<Problem>,
}

pub(super) fn run(args: &CheckArgs) -> Exit {
    let architecture = match host_architecture() {
        Ok(architecture) => architecture,
        Err(problem) => {
            report::to_stderr(&[problem]);
            return Exit::Host;
        }
    };
    let mut result = Report { version: REPORT_VERSION, errors: 0, notes: 0, directories: Vec::new() };
    for directory in &args.directories {
        let (_, problems) = read_definition(directory, &args.location, args.hypervisor, architecture);
        result.errors += problems.count(Severity::Error);
        result.notes += problems.count(Severity::Note);
        result
            .directories
            .push(DirectoryReport { directory: printable(directory), problems: problems.into_sorted() });
    }
    match print(args, &result) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report::line(&format!("the report cannot be written: {error}"));
            Exit::Host
        }
        _ if result.errors > 0 => Exit::Input,
        _ => Exit::Fine,
    }
}

fn print(args: &CheckArgs, result: &Report) -> io::Result<()> {
    if args.json {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, result)?;
        return writeln!(out);
    }
    let mut out = anstream::stdout();
    for directory in &result.directories {
        report::write(&mut out, &directory.problems)?;
    }
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let directories = match result.directories.len() {
        1 => "1 VM directory".to_owned(),
        several => format!("{several} VM directories"),
    };
    writeln!(out, "{directories}: {}, {}", counted(result.errors, "error"), counted(result.notes, "note"))
}
