// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum host`: what the unit files call.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use sd_notify::NotifyState;

use super::{Exit, StateArgs, absolute, fail, report};
use crate::base::name::{SourceName, VmName};
use crate::base::printable::printable;
use crate::base::problem::Problem;
use crate::host::ocf_agent::{AgentError, act, meta_data};
use crate::host::{self, Environment, HostError, Person, Session, USER_VARIABLE, units};
use crate::state::directory::StateDirectory;
use crate::system::journal::{self, Priority};
use crate::system::{compositor, process};

#[derive(Debug, Args)]
pub(super) struct HostArgs {
    #[command(flatten)]
    state: StateArgs,

    #[command(subcommand)]
    verb: HostVerb,
}

#[derive(Debug, Clone, Args)]
struct NameArgs {
    /// The VM's name
    #[arg(value_parser = name)]
    name: VmName,
}

fn name(text: &str) -> Result<VmName, String> {
    VmName::new(text).map_err(|error| error.to_string())
}

fn source(text: &str) -> Result<SourceName, String> {
    SourceName::new(text).map_err(|error| error.to_string())
}

#[derive(Debug, Subcommand)]
enum HostVerb {
    /// Make `booted` a link to the package that a VM is started from, unless its drop-ins are outdated (microvm-set-booted@)
    SetBooted(NameArgs),
    /// Remove that link, and what else is left of the VM
    ClearBooted(NameArgs),
    /// Create the network namespace of VMs (microvm-spectrum-network)
    NetworkUp,
    /// Create a VM's tap interfaces (microvm-tap-interfaces@)
    TapUp(NameArgs),
    /// Remove a VM's tap interfaces
    TapDown(NameArgs),
    /// Bind a VM's PCI devices to the VFIO driver (microvm-pci-devices@)
    PciSetup(NameArgs),
    /// Take a VM's PCI devices from its user; they stay bound to the VFIO driver
    PciRelease(NameArgs),
    /// Serve a VM's shared directories (microvm-virtiofsd@)
    Virtiofsd(NameArgs),
    /// Become the passt that connects a VM to the host's network (microvm-uplink@)
    Uplink(NameArgs),
    /// Make the directory for the session that shows a VM's windows (microvm@)
    MountWayland {
        /// The VM's name
        #[arg(value_parser = name)]
        name: VmName,
        /// The user id that the VM runs as
        #[arg(long, value_name = "UID")]
        vm: u32,
        /// The user id of the session
        #[arg(long, value_name = "UID")]
        session: u32,
        /// Let its compositor lack security contexts
        #[arg(long)]
        without_security_context: bool,
    },
    /// Offer the compositor of this session to the VMs of its user (microvm-spectrum-wayland)
    OfferCompositor,
    /// Run a VM (microvm@)
    Run(NameArgs),
    /// Stop a VM whose package has no supervisor
    Stop(NameArgs),
    /// Wait before a source is scanned again, the longer the more often it changes
    Pace {
        /// The source
        #[arg(value_parser = source)]
        source: SourceName,
    },
    /// Scan a source again if it has changed since its last scan began (microvm-spectrum-rescan@)
    Rescan {
        /// The source
        #[arg(value_parser = source)]
        source: SourceName,
    },
    /// Scan sources again when they are mounted or unmounted (microvm-spectrum-mounts)
    WatchMounts,
    /// Do what Pacemaker's agent for VMs is called for (ocf:microvm-spectrum:vm)
    OcfAgent {
        /// The action, such as `monitor`
        #[arg(default_value = "")]
        action: String,
    },
    /// Write the drop-ins of all VMs, as a systemd generator
    Generate {
        /// Where to write them
        #[arg(value_parser = absolute)]
        normal: PathBuf,
        /// For units before those of the administrator; unused
        early: Option<PathBuf>,
        /// For units after all others; unused
        late: Option<PathBuf>,
    },
}

pub(super) fn run(args: &HostArgs) -> ExitCode {
    process::keep_descriptors();
    let state = StateDirectory::at(&args.state.state_dir);
    let environment = environment();
    let (name, done) = match &args.verb {
        HostVerb::SetBooted(NameArgs { name }) => (name, host::set_booted(&state, name)),
        HostVerb::ClearBooted(NameArgs { name }) => (name, host::clear_booted(&state, name)),
        HostVerb::TapUp(NameArgs { name }) => (name, host::tap_up(&state, name, &environment)),
        HostVerb::TapDown(NameArgs { name }) => (name, host::tap_down(&state, name, &environment)),
        HostVerb::PciSetup(NameArgs { name }) => (name, host::pci_setup(&state, name, &environment)),
        HostVerb::PciRelease(NameArgs { name }) => (name, host::pci_release(&state, name, &environment)),
        HostVerb::Uplink(NameArgs { name }) => (name, host::connect_uplink(&state, name)),
        HostVerb::MountWayland { name, vm, session, without_security_context } => {
            let person = Person { uid: *session, without_security_context: *without_security_context };
            (name, host::mount_wayland(name, *vm, person))
        }
        HostVerb::OfferCompositor => return offer_compositor().into(),
        HostVerb::Run(NameArgs { name }) => match host::run(&state, name) {
            Ok(status) => return ExitCode::from(status),
            Err(error) => (name, Err(error)),
        },
        HostVerb::Stop(NameArgs { name }) => (name, host::stop(&state, name)),
        HostVerb::Virtiofsd(NameArgs { name }) => match host::serve_shares(&state, name, &environment) {
            Ok(outcome) if outcome.status() == 0 => (name, Ok(())),
            Ok(outcome) => {
                failed(name, &outcome.problems(), &outcome.to_string());
                return ExitCode::from(outcome.status());
            }
            Err(error) => (name, Err(error)),
        },
        HostVerb::Pace { source } => return done(host::pace(source)).into(),
        HostVerb::Rescan { source } => return done(host::rescan(source)).into(),
        HostVerb::WatchMounts => return done(host::watch_mounts(&state)).into(),
        HostVerb::NetworkUp => return done(host::network_up(&environment)).into(),
        HostVerb::OcfAgent { action } => return ocf_agent(&args.state.state_dir, action),
        HostVerb::Generate { normal, .. } => return generate(&state, normal).into(),
    };
    match done {
        Ok(()) => Exit::Fine.into(),
        Err(error) => {
            failed(name, &error.problems(), &error.to_string());
            Exit::of(&error.into()).into()
        }
    }
}

/// What the environment tells the host's part.
pub(super) fn environment() -> Environment {
    Environment {
        user: std::env::var_os(USER_VARIABLE).map(|user| user.to_string_lossy().into_owned()),
        path: std::env::var_os("PATH").unwrap_or_default(),
    }
}

/// Reports why a VM cannot start, with the first reason as the unit's status.
fn failed(name: &VmName, problems: &[Problem], why: &str) {
    let why = printable(why);
    let reason =
        problems.first().map_or_else(|| why.clone(), |it| printable(&it.path) + ": " + &printable(&it.cause));
    let _ = sd_notify::notify(&[NotifyState::Status(&reason)]);
    for problem in problems {
        say(name, &problem.to_string().replace("\n  ", "; "));
    }
    say(name, &why);
}

/// Writes a line to a VM's own journal, or to standard error where that is not the journal.
fn say(name: &VmName, line: &str) {
    let line = format!("{name}: {line}");
    if !(journal::is_connected() && journal::send(Priority::Error, Some(name), &line).is_ok()) {
        report::line(&line);
    }
}

fn offer_compositor() -> Exit {
    let variable = |name| std::env::var_os(name);
    let found =
        compositor::socket(variable("WAYLAND_DISPLAY").as_deref(), variable("XDG_RUNTIME_DIR").as_deref());
    let Some(compositor) = found else {
        report::line("XDG_RUNTIME_DIR is not set: run this in a user's session");
        return Exit::Usage;
    };
    let say = |line: &str| report::line(&printable(line));
    done(host::offer_compositor(&Session { compositor, say: &say }))
}

/// Reports a failed verb, and returns the exit status.
fn done(result: Result<(), HostError>) -> Exit {
    let Err(error) = result else { return Exit::Fine };
    report::line(&printable(error.to_string()));
    Exit::of(&error.into())
}

/// Ends with the statuses that the Open Cluster Framework gives to agents.
fn ocf_agent(state_directory: &Path, action: &str) -> ExitCode {
    if action == "meta-data" {
        let written = report::to_stdout("the metadata", |out| out.write_all(meta_data().as_bytes()));
        return written.map_or_else(|error| fail(&error), |()| Exit::Fine).into();
    }
    let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    match act(state_directory, action, variable) {
        Ok(ended) => ExitCode::from(ended as u8),
        Err(error) => {
            let (status, reason) = (error.status(), error.reason());
            match error {
                AgentError::Vm(error) => report::error(&error.into()),
                AgentError::Control(error) => report::error(&error.into()),
                AgentError::Catalog(problem) => report::error(&problem.into()),
                _ => {}
            }
            report::exit_reason(&reason);
            ExitCode::from(status)
        }
    }
}

/// Never fails: a boot goes on without VMs.
fn generate(state: &StateDirectory, directory: &Path) -> Exit {
    let generated = std::env::current_exe()
        .map_err(|error| error.to_string())
        .and_then(|program| units::generate(state, &program, directory).map_err(|error| error.to_string()));
    if let Err(why) = generated {
        let line = printable(format!("microvm-spectrum-generator: no VMs: {why}"));
        if journal::send_to_kernel(Priority::Error, &line).is_err() {
            report::line(&line);
        }
    }
    Exit::Fine
}
