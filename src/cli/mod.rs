// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The command line: words in, words out.
//!
//! It resolves what comes from outside and passes it inwards: arguments, the
//! environment, the host's architecture, whether KVM works. It prints what the
//! stages return, and decides nothing about VMs.

mod build;
mod check;
mod check_config;
mod command;
mod completion;
mod console;
mod control;
mod doctor;
mod forget;
mod graph;
mod host;
mod list;
mod log;
mod new;
mod progress;
mod report;
mod said;
mod status;
mod sync;
mod units;
mod vm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::base::architecture::Architecture;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::config::Refused;
use crate::directory::boundary::AllowedPrefix;
use crate::directory::definition::{Definition, Location, Scan};
use crate::host::HostError;
use crate::host::units::UnitPathError;
use crate::hypervisor::kvm_probe::NoKvm;
use crate::hypervisor::{self, kvm_probe, kvm_record, passt_probe, wayland_probe};
use crate::package::{LoadError, WriteError, planning};
use crate::plan::{Accelerator, HypervisorName};
use crate::state::catalog::Catalog;
use crate::state::directory::DEFAULT_STATE_DIRECTORY;
use crate::state::installed::{Installed, VmError};
use crate::sync::ForgetError;
use crate::system::control::{ControlError, Verb as Control};
use crate::system::journal;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything is fine.
    Fine = 0,
    /// The input has problems.
    Input = 1,
    /// The command line (with clap's own status for that) or the configuration is wrong.
    Usage = 2,
    /// The host failed.
    Host = 3,
}

impl Exit {
    /// How the program ends after an error. This is the only place that knows.
    fn of(error: &anyhow::Error) -> Self {
        let of_package = |is_hosts: bool| if is_hosts { Self::Host } else { Self::Input };
        if let Some(problem) = error.downcast_ref::<Problem>() {
            Self::of_problem(problem)
        } else if let Some(problems) = error.downcast_ref::<Problems>() {
            Self::of_problems(problems)
        } else if let Some(Refused(problems)) = error.downcast_ref::<Refused>() {
            if problems.has_host_errors() { Self::Host } else { Self::Usage }
        } else if let Some(error) = error.downcast_ref::<HostError>() {
            of_package(error.is_hosts())
        } else if let Some(error) = error.downcast_ref::<LoadError>() {
            of_package(error.is_hosts())
        } else if let Some(ControlError::Killed(_)) = error.downcast_ref() {
            Self::Input
        } else if error.is::<VmError>() || error.is::<ForgetError>() {
            Self::Input
        } else if let Some(error) = error.downcast_ref::<WriteError>() {
            match error {
                WriteError::Exists(_) | WriteError::NotAPackage(_) => Self::Input,
                WriteError::NoName(_) => Self::Usage,
                WriteError::Io { .. } => Self::Host,
            }
        } else if error.is::<UnitPathError>() {
            Self::Usage
        } else {
            Self::Host
        }
    }

    fn of_problem(problem: &Problem) -> Self {
        Self::of_problems(&problem.clone().into())
    }

    fn of_problems(problems: &Problems) -> Self {
        match (problems.has_host_errors(), problems.has_errors()) {
            (true, _) => Self::Host,
            (false, true) => Self::Input,
            (false, false) => Self::Fine,
        }
    }
}

/// Reports an error, and tells how the program ends after it.
fn fail(error: &anyhow::Error) -> Exit {
    report::error(error);
    Exit::of(error)
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
    after_help = "Exit status: 0 fine, 1 VMs or other inputs have problems, 2 the command line or the configuration\n\
    is wrong, 3 host error.\n\
    `vm run` ends with 0 when the guest powered off, 4 its kernel panicked, 5 the virtual machine\n\
    monitor failed, 6 it did not start, 7 the server of a shared directory ended, 8 it was killed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a VM directory out of a root file system and a kernel
    New(new::NewArgs),
    /// Report every problem of VM directories, or of the installed VMs
    ///
    /// It also looks inside the kernel and the images of the directories that are named, and reports
    /// what keeps a guest from booting.
    Check(check::CheckArgs),
    /// Report every problem of a configuration that can be found without its host
    CheckConfig(check_config::CheckConfigArgs),
    /// Build the runner package of a VM directory
    Build(build::BuildArgs),
    /// Print the command line with which a runner package starts the virtual machine monitor
    Command(command::CommandArgs),
    /// Install the VMs of all sources
    Sync(sync::SyncArgs),
    /// Release the user ids and addresses of removed VMs
    Forget(forget::ForgetArgs),
    /// List the installed VMs and what they do
    List(list::ListArgs),
    /// Show everything about one VM: its state and the reason, what it uses and what it has
    Status(status::StatusArgs),
    /// Report what this host lacks to run VMs, and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Draw which VM provides which other with a network
    Graph(graph::GraphArgs),
    /// Start VMs and wait until they run
    Start(control::ControlArgs),
    /// Stop VMs: press their power buttons and wait until they have powered off
    ///
    /// A guest that has not powered off after 30 seconds is killed.
    Stop(control::ControlArgs),
    /// Stop VMs and start them again
    Restart(control::ControlArgs),
    /// Attach to the console of a running VM; Ctrl-] detaches
    Console(console::ConsoleArgs),
    /// Print what a VM has written to its serial console
    Log(log::LogArgs),
    /// Write unit files for systemd
    Units(units::UnitsArgs),
    /// Print the script with which a shell completes this program's command lines
    Completion(completion::CompletionArgs),
    /// Do the work of the scripts in a runner package
    #[command(hide = true)]
    Vm(vm::VmArgs),
    /// Do the work of the unit files
    #[command(hide = true)]
    Host(host::HostArgs),
}

/// Where the installed VMs are.
#[derive(Debug, Args)]
struct StateArgs {
    /// Where the installed VMs are
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIRECTORY, value_parser = absolute)]
    state_dir: PathBuf,
}

impl StateArgs {
    /// The installed VMs. Reports a catalog that cannot be used.
    fn installed(&self) -> Installed {
        let installed = Installed::read(&self.state_dir);
        report::to_stderr(installed.problem.as_slice());
        installed
    }

    /// The catalog, for commands that have nothing to do without one.
    fn catalog(&self) -> anyhow::Result<Catalog> {
        match Installed::read(&self.state_dir) {
            Installed { problem: Some(problem), .. } => Err(problem.into()),
            Installed { catalog, .. } => catalog.ok_or_else(|| VmError::NoneInstalled.into()),
        }
    }
}

/// Makes a path absolute, which need not exist.
fn absolute(path: &str) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

/// Where VM directories are, and where their links may lead.
#[derive(Debug, Args)]
struct LocationArgs {
    /// The directory that Spectrum mounts at /ext [default: P when DIR is P/svc/data/NAME, else DIR]
    #[arg(long, value_name = "ROOT")]
    user_partition: Option<PathBuf>,

    /// Allow links whose targets begin with PREFIX, and look for these in HOSTDIR on this host
    #[arg(long, value_name = "PREFIX[=HOSTDIR]")]
    allow: Vec<AllowedPrefix>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    completion::answer();
    journal::connect(std::env::var_os("JOURNAL_STREAM").as_deref());
    let ended = match parse().command {
        Verb::New(args) => new::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::CheckConfig(args) => check_config::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Command(args) => command::run(&args),
        Verb::Sync(args) => sync::run(&args),
        Verb::Forget(args) => Ok(forget::run(&args)),
        Verb::List(args) => list::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Graph(args) => graph::run(&args),
        Verb::Start(args) => control::run(Control::Start, &args),
        Verb::Stop(args) => control::run(Control::Stop, &args),
        Verb::Restart(args) => control::run(Control::Restart, &args),
        Verb::Console(args) => Ok(console::run(&args)),
        Verb::Log(args) => log::run(&args),
        Verb::Units(args) => units::run(&args),
        Verb::Completion(args) => completion::run(&args),
        Verb::Vm(args) => return vm::run(&args),
        Verb::Host(args) => return host::run(&args),
    };
    ended.unwrap_or_else(|error| fail(&error)).into()
}

/// Reads the arguments; clap ends the program when they are wrong.
///
/// Its messages repeat arguments, and a shell's `*` puts untrusted names among
/// these, so it repeats them in printable form.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| {
        match Cli::try_parse_from(std::env::args_os().map(crate::base::printable::printable)) {
            Err(printable) => printable.exit(),
            Ok(_) => error.exit(),
        }
    })
}

/// The architecture of this host and so of its VMs.
fn host_architecture() -> Result<Architecture, Problem> {
    Architecture::host().ok_or_else(|| {
        Problem::host(
            "/proc/cpuinfo",
            format!("VMs cannot run on {}", std::env::consts::ARCH),
            "use a machine with x86_64 or aarch64",
        )
    })
}

/// Where all tools are: those `given`, this program, and the others in PATH.
fn find_tools(mut given: BTreeMap<Tool, PathBuf>) -> BTreeMap<Tool, PathBuf> {
    if let Ok(own) = std::env::current_exe() {
        given.entry(Tool::MicrovmSpectrum).or_insert(own);
    }
    tool::find_all(&given, &std::env::var_os("PATH").unwrap_or_default())
}

/// What executes the instructions of QEMU's guests here, as the file `record` has it if one
/// is given. Warns the user if that is slow, when it finds that out.
fn usable_accelerator(
    tools: &BTreeMap<Tool, PathBuf>,
    architecture: Architecture,
    record: Option<&std::path::Path>,
) -> Accelerator {
    let qemu = hypervisor::description(HypervisorName::Qemu).tools(architecture).first();
    let qemu = qemu.and_then(|tool| tools.get(tool));
    let probe = |qemu: &PathBuf| match record {
        Some(record) => kvm_record::probe(record, qemu, architecture),
        None => (kvm_probe::probe(qemu, architecture), true),
    };
    match qemu.map(probe) {
        Some((Err(_), false)) => Accelerator::Tcg,
        Some((Err(NoKvm::Broken(why)), true)) => {
            let why = crate::base::printable::printable(why);
            report::line(&format!("KVM does not work here ({why}); using TCG emulation, which is slow"));
            Accelerator::Tcg
        }
        Some((Err(slow @ NoKvm::Slow), true)) => {
            report::line(&format!(
                "KVM is {slow}; using TCG emulation this time (accel = 'kvm', --accel kvm: KVM nevertheless)"
            ));
            Accelerator::Tcg
        }
        // A missing QEMU is reported with the other problems.
        Some((Ok(()), _)) | None => Accelerator::Kvm,
    }
}

/// Whether the guests of QEMU can show windows here, see [`wayland_probe::probe`].
fn shows_windows(tools: &BTreeMap<Tool, PathBuf>, architecture: Architecture) -> Result<(), String> {
    let qemu = hypervisor::description(HypervisorName::Qemu).tools(architecture).first();
    // A missing QEMU is reported with the other problems.
    qemu.and_then(|tool| tools.get(tool)).map_or(Ok(()), |qemu| wayland_probe::probe(qemu))
}

/// Whether passt, if there is one, has vhost-user.
fn has_vhost_user(tools: &BTreeMap<Tool, PathBuf>) -> bool {
    // A missing one is reported with the other problems.
    tools.get(&Tool::Passt).is_none_or(|passt| passt_probe::has_vhost_user(passt))
}

/// Reads one VM directory with a `scan`, also for problems with the hypervisor; for `ask_qemu` see
/// [`planning::wayland_problem`].
fn read_definition(
    directory: &std::path::Path,
    location: &LocationArgs,
    hypervisor: HypervisorName,
    scan: &Scan,
    ask_qemu: &dyn Fn() -> Result<(), String>,
) -> (Option<Definition>, Problems) {
    match Location::find(directory, location.user_partition.as_deref(), &location.allow) {
        Ok(found) => {
            let reading = scan.read(&found);
            let mut problems = reading.problems;
            if reading.wayland {
                problems.extend(planning::wayland_problem(&found, hypervisor, ask_qemu));
            }
            (reading.definition, problems)
        }
        Err(problem) => (None, problem.into()),
    }
}
