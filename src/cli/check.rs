// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum check`

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::report::Told;
use super::vms::Vms;
use super::{Exit, LocationArgs, StateArgs, host_architecture, read_definition, report};
use crate::base::printable::printable;
use crate::base::problem::Severity;
use crate::directory::definition::SharedDirectories;
use crate::plan::HypervisorName;
use crate::state::catalog::{CatalogProblem, VmState};

/// The version of the JSON document that `--json` prints.
const REPORT_VERSION: u32 = 1;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// VM directories [default: the VMs of all configured sources, as the last sync found them]
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// The hypervisor that is to run them
    #[arg(long, value_enum, default_value_t = HypervisorName::CloudHypervisor)]
    hypervisor: HypervisorName,

    #[command(flatten)]
    location: LocationArgs,

    #[command(flatten)]
    state: StateArgs,
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
    problems: Vec<Told>,
}

impl Report {
    fn push(&mut self, directory: String, problems: Vec<Told>) {
        let count = |severity| problems.iter().filter(|problem| problem.severity() == severity).count();
        self.errors += count(Severity::Error);
        self.notes += count(Severity::Note);
        self.directories.push(DirectoryReport { directory, problems });
    }
}

pub(super) fn run(args: &CheckArgs) -> Exit {
    if args.directories.is_empty() { installed(args) } else { directories(args) }
}

/// What is wrong with the VMs of all sources.
fn installed(args: &CheckArgs) -> Exit {
    let vms = Vms::of(&args.state.state_dir);
    let Some(catalog) = &vms.catalog else {
        if !vms.unusable {
            report::line("nothing was ever installed: see microvm-spectrum-sync(1), or name VM directories");
        }
        return Exit::Input;
    };
    let mut result = Report { version: REPORT_VERSION, errors: 0, notes: 0, directories: Vec::new() };
    for source in &catalog.sources {
        if let Some(problem) = &source.problem {
            result.push(printable(&source.directory), vec![Told::of_catalog(Severity::Note, problem)]);
        }
    }
    for vm in &catalog.vms {
        let problems = match &vm.state {
            VmState::Runnable(_) | VmState::Unavailable { .. } => Vec::new(),
            VmState::Broken { problems } | VmState::Blocked { problems, .. } => {
                problems.iter().map(|problem| Told::of_catalog(Severity::Error, problem)).collect()
            }
            VmState::Shadowed { by } => {
                let problem = CatalogProblem {
                    path: vm.directory.clone(),
                    cause: format!("is shadowed by the VM of that name in {by}"),
                    remedy: "rename one of them".to_owned(),
                };
                vec![Told::of_catalog(Severity::Note, &problem)]
            }
        };
        result.push(vm.directory.clone(), problems);
    }
    finish(args, &result)
}

/// What is wrong with the directories that are named.
fn directories(args: &CheckArgs) -> Exit {
    let architecture = match host_architecture() {
        Ok(architecture) => architecture,
        Err(problem) => {
            report::to_stderr(&[problem]);
            return Exit::Host;
        }
    };
    let mut result = Report { version: REPORT_VERSION, errors: 0, notes: 0, directories: Vec::new() };
    for directory in &args.directories {
        let shared = SharedDirectories::Here;
        let (_, problems) = read_definition(directory, &args.location, args.hypervisor, architecture, shared);
        result.push(printable(directory), problems.into_sorted().iter().map(Told::from).collect());
    }
    finish(args, &result)
}

fn finish(args: &CheckArgs, result: &Report) -> Exit {
    match print(args, result) {
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
