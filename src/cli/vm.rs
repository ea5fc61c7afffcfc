// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum vm`: what the scripts of a runner package call.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::host::environment;
use super::{Exit, console, fail, report};
use crate::base::printable::printable;
use crate::host::{self, HostError};
use crate::package;
use crate::plan::Plan;
use crate::supervisor::{self, DEFAULT_STOP_TIMEOUT, Options, Outcome, Shutdown};
use crate::system::journal::Priority;
use crate::system::{compositor, process};

#[derive(Debug, Args)]
pub(super) struct VmArgs {
    #[command(subcommand)]
    verb: VmVerb,
}

#[derive(Debug, Args)]
struct PackageArgs {
    /// The runner package, or one of its scripts
    #[arg(long, value_name = "OUT")]
    package: PathBuf,
}

#[derive(Debug, Subcommand)]
enum VmVerb {
    /// Run the VM in this directory until it ends (bin/microvm-run)
    Run {
        #[command(flatten)]
        package: PackageArgs,
        /// How long the guest gets to power off before it is killed, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_STOP_TIMEOUT.as_secs(), value_parser = seconds())]
        stop_timeout: u64,
        /// Use shared directories that another process serves already, and start no virtiofsd
        #[arg(long)]
        external_virtiofsd: bool,
        /// Use the passt that another process runs already, and start none
        #[arg(long)]
        external_uplink: bool,
        /// Start a VM with windows also where no Wayland compositor is
        #[arg(long)]
        without_compositor: bool,
    },
    /// Press the power button and wait until the VM has ended (bin/microvm-shutdown)
    Shutdown {
        #[command(flatten)]
        package: PackageArgs,
        /// How long to wait, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds())]
        timeout: u64,
    },
    /// Attach to the VM's console, Ctrl-] detaches (bin/microvm-console)
    Console(PackageArgs),
    /// Create the VM's links to its network providers, as root (bin/tap-up)
    TapUp(PackageArgs),
    /// Remove the VM's links to its network providers, as root (bin/tap-down)
    TapDown(PackageArgs),
    /// Bind the VM's PCI devices to the VFIO driver, as root (bin/pci-setup)
    PciSetup(PackageArgs),
    /// Serve the VM's shared directories (bin/virtiofsd-run)
    Virtiofsd(PackageArgs),
    /// Connect the VM to the host's network (bin/uplink-run)
    Uplink(PackageArgs),
}

/// At most a year, so that adding it to the clock's time cannot overflow.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=365 * 24 * 60 * 60)
}

pub(super) fn run(args: &VmArgs) -> ExitCode {
    process::keep_descriptors();
    process::keep_files_private();
    let (VmVerb::Run { package, .. }
    | VmVerb::Shutdown { package, .. }
    | VmVerb::Console(package)
    | VmVerb::TapUp(package)
    | VmVerb::TapDown(package)
    | VmVerb::PciSetup(package)
    | VmVerb::Virtiofsd(package)
    | VmVerb::Uplink(package)) = &args.verb;
    let plan = match package::load(&package.package) {
        Ok(plan) => plan,
        Err(error) => {
            report::line(&printable(error.to_string()));
            return Exit::Input.into();
        }
    };
    match &args.verb {
        VmVerb::Run { stop_timeout, external_virtiofsd, external_uplink, without_compositor, .. } => {
            let variable = std::env::var_os;
            let display = variable("WAYLAND_DISPLAY");
            let options = Options {
                stop_timeout: Duration::from_secs(*stop_timeout),
                external_virtiofsd: *external_virtiofsd,
                external_uplink: *external_uplink,
                compositor: compositor::socket(display.as_deref(), variable("XDG_RUNTIME_DIR").as_deref()),
                without_compositor: *without_compositor,
            };
            end_with(&plan, &supervisor::run(&plan, &options))
        }
        VmVerb::Shutdown { timeout, .. } => shutdown(&plan, Duration::from_secs(*timeout)).into(),
        VmVerb::Console(_) => console::attach(&plan).into(),
        VmVerb::TapUp(_) => {
            let environment = environment();
            let made =
                environment.vm_user().and_then(|user| host::links_up(&plan, user, &|_| user, &environment));
            done(made)
        }
        VmVerb::TapDown(_) => done(host::links_down(&plan, &environment())),
        VmVerb::PciSetup(_) => done(host::pci_setup_devices(&plan.pci_devices, &environment())),
        VmVerb::Virtiofsd(_) => serve_shares(&plan),
        VmVerb::Uplink(_) => done(host::become_uplink(&plan)),
    }
}

fn shutdown(plan: &Plan, timeout: Duration) -> Exit {
    match supervisor::shutdown(plan, timeout) {
        Shutdown::Ended => Exit::Fine,
        Shutdown::NotRunning => {
            report::line(&format!("{} does not run in this directory", plan.name));
            Exit::Fine
        }
        Shutdown::StillRunning(refused) => {
            let why = refused.map(|error| format!(": {error}")).unwrap_or_default();
            let text = format!("{} still runs after {} s{why}", plan.name, timeout.as_secs());
            report::line(&printable(text));
            Exit::Host
        }
    }
}

fn done(done: Result<(), HostError>) -> ExitCode {
    match done {
        Ok(()) => Exit::Fine.into(),
        Err(error) => {
            report::to_stderr(&error.problems());
            fail(&error.into()).into()
        }
    }
}

fn serve_shares(plan: &Plan) -> ExitCode {
    match supervisor::serve_until_end(plan) {
        Outcome::PoweredOff => Exit::Fine.into(),
        outcome => end_with(plan, &outcome),
    }
}

/// Prints how a run ended, tells systemd, and returns its status.
fn end_with(plan: &Plan, outcome: &Outcome) -> ExitCode {
    let mut lines: Vec<_> = outcome.problems().iter().map(ToString::to_string).collect();
    lines.push(format!("microvm-spectrum: {}: {outcome}", plan.name));
    let failed = outcome.status() != 0;
    supervisor::say_last(if failed { Priority::Error } else { Priority::Info }, &lines.join("\n"));
    supervisor::tell_status(outcome);
    ExitCode::from(outcome.status())
}
