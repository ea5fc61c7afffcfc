// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum vm`: what the scripts of a runner package call.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rustix::fs::Mode;

use super::host::environment;
use super::{Exit, console, fail, report};
use crate::base::printable::printable;
use crate::host::{self, HostError};
use crate::package;
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames};
use crate::supervisor::{self, DEFAULT_STOP_TIMEOUT, Options, Outcome};
use crate::system::journal::Priority;
use crate::system::process;

/// How long one exchange with a VMM may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the power button is pressed again, since a guest that is still
/// booting does not notice.
const PRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How often to look whether the VM has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
        /// Let somebody else serve the shared directories, before this is called
        #[arg(long)]
        external_virtiofsd: bool,
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
    Console {
        #[command(flatten)]
        package: PackageArgs,
    },
    /// Make the VM's links to its network providers, as root (bin/tap-up)
    TapUp {
        #[command(flatten)]
        package: PackageArgs,
    },
    /// Remove them (bin/tap-down)
    TapDown {
        #[command(flatten)]
        package: PackageArgs,
    },
    /// Bind the VM's PCI devices to the VFIO driver, as root (bin/pci-setup)
    PciSetup {
        #[command(flatten)]
        package: PackageArgs,
    },
    /// Serve the VM's shared directories (bin/virtiofsd-run)
    Virtiofsd {
        #[command(flatten)]
        package: PackageArgs,
    },
}

/// Up to a year: longer ones make no sense, and the clock ends somewhere.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=365 * 24 * 60 * 60)
}

pub(super) fn run(args: &VmArgs) -> ExitCode {
    process::keep_descriptors();
    // Sockets and locks are for this user alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let (VmVerb::Run { package, .. }
    | VmVerb::Shutdown { package, .. }
    | VmVerb::Console { package }
    | VmVerb::TapUp { package }
    | VmVerb::TapDown { package }
    | VmVerb::PciSetup { package }
    | VmVerb::Virtiofsd { package }) = &args.verb;
    let plan = match package::load(&package.package) {
        Ok(plan) => plan,
        Err(error) => {
            report::line(&printable(error.to_string()));
            return Exit::Input.into();
        }
    };
    match &args.verb {
        VmVerb::Run { stop_timeout, external_virtiofsd, .. } => {
            let stop_timeout = Duration::from_secs(*stop_timeout);
            let options = Options { stop_timeout, external_virtiofsd: *external_virtiofsd };
            end_with(&plan, &supervisor::run(&plan, &options))
        }
        VmVerb::Shutdown { timeout, .. } => shutdown(&plan, Duration::from_secs(*timeout)).into(),
        VmVerb::Console { .. } => console::attach(&plan).into(),
        VmVerb::TapUp { .. } => {
            let environment = environment();
            let made =
                environment.vm_user().and_then(|user| host::links_up(&plan, user, &|_| user, &environment));
            done(made)
        }
        VmVerb::TapDown { .. } => done(host::links_down(&plan, &environment())),
        VmVerb::PciSetup { .. } => done(host::pci_setup_devices(&plan.pci_devices, &environment())),
        VmVerb::Virtiofsd { .. } => serve_shares(&plan),
    }
}

fn shutdown(plan: &Plan, timeout: Duration) -> Exit {
    let sockets = SocketNames::new(&plan.name);
    let lock = sockets.run_lock();
    if !Lock::is_held(&lock) {
        report::line(&format!("{} does not run in this directory", plan.name));
        return Exit::Fine;
    }
    let deadline = Instant::now() + timeout;
    let mut press_at = Instant::now();
    let mut refused = None;
    while Lock::is_held(&lock) {
        let now = Instant::now();
        if now >= deadline {
            let why = refused.map(|e: io::Error| format!(": {e}")).unwrap_or_default();
            let text = format!("{} still runs after {} s{why}", plan.name, timeout.as_secs());
            report::line(&printable(text));
            return Exit::Host;
        }
        if now >= press_at {
            press_at = now + PRESS_INTERVAL;
            let hypervisor = plan.hypervisor.implementation();
            refused =
                hypervisor.press_power_button(plan, &sockets, EXCHANGE_TIMEOUT.min(deadline - now)).err();
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Exit::Fine
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

/// Says how a run ended, and passes its status on.
fn end_with(plan: &Plan, outcome: &Outcome) -> ExitCode {
    let mut lines: Vec<_> = outcome.problems().iter().map(ToString::to_string).collect();
    lines.push(format!("microvm-spectrum: {}: {outcome}", plan.name));
    let failed = outcome.status() != 0;
    supervisor::say_last(if failed { Priority::Error } else { Priority::Info }, &lines.join("\n"));
    supervisor::tell_status(outcome);
    ExitCode::from(outcome.status())
}
