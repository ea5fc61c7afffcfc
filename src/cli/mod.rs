// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The command line.
//!
//! Everything that comes from outside is resolved here, at the edge, and passed
//! inwards: arguments, the environment, the host's architecture, whether KVM
//! works.

mod build;
mod check;
mod command;
mod console;
mod control;
mod dry_run;
mod forget;
mod graph;
mod host;
mod list;
mod log;
mod progress;
mod report;
mod sync;
mod tell_systemd;
mod units;
mod vm;
mod vms;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::base::architecture::Architecture;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::directory::boundary::AllowedPrefix;
use crate::directory::definition::{self, Definition, Location, SharedDirectories};
use crate::hypervisor::kvm_probe;
use crate::plan::{Accelerator, HypervisorName};
use crate::state::directory::DEFAULT_STATE_DIRECTORY;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything is fine.
    Fine = 0,
    /// The input has problems.
    Input = 1,
    /// The arguments make no sense (clap's own status for them).
    Usage = 2,
    /// The host failed us.
    Host = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Run Spectrum OS virtual machine directories on any systemd distribution.
#[derive(Debug, Parser)]
#[command(name = "microvm-spectrum", version, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 fine, 1 the input has problems, 2 wrong usage, 3 the host failed us.\n\
    `vm run` ends with 0 when the guest powered off, 4 its kernel panicked, 5 the virtual machine\n\
    monitor failed, 6 it did not start, 7 a shared directory's server ended, 8 it had to be killed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say everything that is wrong with VM directories, or with the VMs of all sources
    Check(check::CheckArgs),
    /// Build the runner package of a VM directory
    Build(build::BuildArgs),
    /// Print the virtual machine monitor's command line of a built package
    Command(command::CommandArgs),
    /// Install the VMs of all sources
    Sync(sync::SyncArgs),
    /// Let go of what VMs have leased that are gone: user ids and addresses
    Forget(forget::ForgetArgs),
    /// Show the installed VMs
    List(list::ListArgs),
    /// Draw which VM provides which with a network
    Graph(graph::GraphArgs),
    /// Start VMs, and wait until they run
    Start(control::ControlArgs),
    /// Stop VMs: press the power button, and wait until they have ended
    Stop(control::ControlArgs),
    /// Stop VMs and start them again
    Restart(control::ControlArgs),
    /// Attach to the console of a running VM; Ctrl-] detaches
    Console(console::ConsoleArgs),
    /// Show what a VM has printed on its serial console
    Log(log::LogArgs),
    /// Write unit files for systemd
    Units(units::UnitsArgs),
    /// What the scripts of a runner package call
    Vm(vm::VmArgs),
    /// What the unit files call
    Host(host::HostArgs),
}

/// Where the installed VMs are.
#[derive(Debug, Args)]
struct StateArgs {
    /// Where the installed VMs are
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIRECTORY, value_parser = absolute)]
    state_dir: PathBuf,
}

/// A path made absolute, which may not be there.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

/// Where VM directories are, and where their links may lead.
#[derive(Debug, Args)]
struct LocationArgs {
    /// What Spectrum mounts at /ext [default: P when DIR is P/svc/data/NAME, else DIR itself]
    #[arg(long, value_name = "ROOT")]
    user_partition: Option<PathBuf>,

    /// Where else links may lead: targets that begin with PREFIX, which is HOSTDIR on this host
    #[arg(long, value_name = "PREFIX[=HOSTDIR]")]
    allow: Vec<AllowedPrefix>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    match parse().command {
        Verb::Check(args) => check::run(&args).into(),
        Verb::Build(args) => build::run(&args).into(),
        Verb::Command(args) => command::run(&args).into(),
        Verb::Sync(args) => sync::run(&args).into(),
        Verb::Forget(args) => forget::run(&args).into(),
        Verb::List(args) => list::run(&args).into(),
        Verb::Graph(args) => graph::run(&args).into(),
        Verb::Start(args) => control::run("start", &args).into(),
        Verb::Stop(args) => control::run("stop", &args).into(),
        Verb::Restart(args) => control::run("restart", &args).into(),
        Verb::Console(args) => console::run(&args).into(),
        Verb::Log(args) => log::run(&args).into(),
        Verb::Units(args) => units::run(&args).into(),
        Verb::Vm(args) => vm::run(&args),
        Verb::Host(args) => host::run(&args),
    }
}

/// Reads the arguments; clap ends the program when they make no sense.
///
/// Its messages repeat arguments, and a shell's `*` makes arguments of names that
/// are not the user's own: they are told in printable form.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        match Cli::try_parse_from(std::env::args_os().map(crate::base::printable::printable)) {
            Err(printable) => printable.exit(),
            Ok(_) => error.exit(),
        }
    })
}

/// The architecture that VMs have here, or the problem that there is none.
fn host_architecture() -> Result<Architecture, Problem> {
    Architecture::host().ok_or_else(|| {
        Problem::error(
            "/proc/cpuinfo",
            format!("VMs cannot run on {}", std::env::consts::ARCH),
            "use a machine with x86_64 or aarch64",
        )
    })
}

/// Where all tools are: those that are `given`, this program, and what is in PATH.
fn find_tools(mut given: BTreeMap<Tool, PathBuf>) -> BTreeMap<Tool, PathBuf> {
    if let Ok(own) = std::env::current_exe() {
        given.entry(Tool::MicrovmSpectrum).or_insert(own);
    }
    tool::find_all(&given, &std::env::var_os("PATH").unwrap_or_default())
}

/// What executes guests' instructions under QEMU here; says so when it is slow.
fn usable_accelerator(tools: &BTreeMap<Tool, PathBuf>, architecture: Architecture) -> Accelerator {
    let qemu = HypervisorName::Qemu.implementation().tools(architecture).first();
    let qemu = qemu.and_then(|tool| tools.get(tool));
    match qemu.map(|qemu| kvm_probe::probe(qemu, architecture)) {
        Some(Err(why)) => {
            report::line(&format!(
                "the guest's instructions are executed by TCG, which is slow: {}",
                crate::base::printable::printable(why)
            ));
            Accelerator::Tcg
        }
        // A QEMU that is missing is reported with the rest.
        Some(Ok(())) | None => Accelerator::Kvm,
    }
}

/// Reads one VM directory; the problems include those with the hypervisor.
fn read_definition(
    directory: &std::path::Path,
    location: &LocationArgs,
    hypervisor: HypervisorName,
    architecture: Architecture,
    shared: SharedDirectories,
) -> (Option<Definition>, Problems) {
    match Location::find(directory, location.user_partition.as_deref(), &location.allow) {
        Ok(found) => {
            let reading = definition::read_with(&found, architecture, shared);
            let mut problems = reading.problems;
            if reading.wayland {
                crate::package::planning::check_wayland(&found, hypervisor, &mut problems);
            }
            (reading.definition, problems)
        }
        Err(problem) => {
            let mut problems = Problems::default();
            problems.push(problem);
            (None, problems)
        }
    }
}
