// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum check`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::report::{self, PrintableProblem};
use super::{Exit, LocationArgs, StateArgs, host_architecture, read_definition};
use crate::base::printable::Printable;
use crate::base::problem::{Problems, Severity};
use crate::directory::definition::Scan;
use crate::plan::HypervisorName;
use crate::state::installed;

/// The version of the JSON document that `--json` prints.
const REPORT_VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// VM directories [default: the VMs of all sources, as the last sync found them]
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// The hypervisor that should run them
    #[arg(long, value_enum, default_value_t = HypervisorName::CloudHypervisor)]
    hypervisor: HypervisorName,

    #[command(flatten)]
    location: LocationArgs,

    #[command(flatten)]
    state: StateArgs,
}

/// What `check` prints about all directories.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    errors: usize,
    notes: usize,
    directories: Vec<DirectoryReport>,
}

#[derive(Serialize)]
pub(super) struct DirectoryReport {
    directory: Printable,
    problems: Vec<PrintableProblem>,
}

impl DirectoryReport {
    pub(super) fn of(directory: &Path, problems: Problems) -> Self {
        let problems = problems.into_sorted().iter().map(PrintableProblem::from).collect();
        Self { directory: Printable::new(directory), problems }
    }
}

impl Report {
    pub(super) fn of(directories: Vec<DirectoryReport>) -> Self {
        let all = || directories.iter().flat_map(|directory| &directory.problems);
        let count = |severity| all().filter(|problem| problem.severity() == severity).count();
        let (errors, notes) = (count(Severity::Error), count(Severity::Note));
        Self { version: REPORT_VERSION, errors, notes, directories }
    }
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let report = Report::of(if args.directories.is_empty() { installed(args) } else { directories(args) }?);
    report::to_stdout("the report", |out| print(out, args.json, &report))?;
    Ok(if report.errors > 0 { Exit::Input } else { Exit::Fine })
}

/// The problems of the installed VMs.
fn installed(args: &CheckArgs) -> anyhow::Result<Vec<DirectoryReport>> {
    let findings = installed::findings(&args.state.catalog()?);
    let reports = findings.into_iter().map(|(directory, problems)| {
        let problems =
            problems.into_iter().map(|(severity, texts)| PrintableProblem::of_catalog(severity, texts));
        DirectoryReport { directory, problems: problems.collect() }
    });
    Ok(reports.collect())
}

/// The problems of the named directories.
fn directories(args: &CheckArgs) -> anyhow::Result<Vec<DirectoryReport>> {
    let architecture = host_architecture()?;
    let reports = args.directories.iter().map(|directory| {
        let scan = Scan::new(architecture).looking_inside();
        let (_, problems) = read_definition(directory, &args.location, args.hypervisor, &scan, &|| Ok(()));
        DirectoryReport::of(directory, problems)
    });
    Ok(reports.collect())
}

pub(super) fn print(mut out: &mut dyn Write, json: bool, report: &Report) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    for directory in &report.directories {
        report::write(&mut out, &directory.problems)?;
    }
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let directories = match report.directories.len() {
        1 => "1 VM directory".to_owned(),
        several => format!("{several} VM directories"),
    };
    writeln!(out, "{directories}: {}, {}", counted(report.errors, "error"), counted(report.notes, "note"))
}
