// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The host's part of running VMs: the unit files, and the work that units call for.
//!
//! Each function here is one line of a unit; units call all but [`run()`] as root.
//! [`set_booted`] comes first and makes `booted` a link to the VM's package; the others
//! use that link, and so all use the same package. [`apply`] has systemd do what `sync`
//! decided. Only [`cli`](crate::cli) may use this stage.

pub mod apply;
mod booted;
pub mod doctor;
mod links;
mod mounts;
mod network;
pub mod ocf_agent;
mod pace;
mod pci;
mod rescan;
mod run;
mod runtime;
mod shares;
mod taps;
pub mod units;
mod uplink;
mod wayland;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use booted::{clear_booted, set_booted};
pub use links::{links_down, links_up};
pub use mounts::watch_mounts;
pub use network::network_up;
pub use pace::pace;
pub use pci::{pci_release, pci_setup, pci_setup_devices};
pub use rescan::rescan;
pub use run::{run, stop};
pub use shares::serve_shares;
pub use taps::{tap_down, tap_up};
pub use uplink::{become_uplink, connect_uplink};
pub use wayland::{Person, Session, mount_wayland, offer_compositor};

use crate::base::name::VmName;
use crate::base::problem::{self, Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::link::id::LinkId;
use crate::link::taps::WireError;
use crate::package::LoadError;
use crate::state::directory::StateDirectory;
use crate::state::started::Started;
use crate::system::accounts;
use crate::system::program::{self, ProgramError};
use crate::system::trust::{self, Untrusted};

/// The environment variable that names the user of a VM that no source has.
pub const USER_VARIABLE: &str = "MICROVM_SPECTRUM_USER";
/// The user as whom microvm.nix runs all VMs.
const DEFAULT_USER: &str = "microvm";

/// What the caller's environment says.
#[derive(Debug, Clone)]
pub struct Environment {
    /// [`USER_VARIABLE`]: the name or id of the user who gets taps, devices and sockets.
    pub user: Option<String>,
    /// PATH, for programs that a package does not name.
    pub path: OsString,
}

impl Environment {
    /// The same for a unit of a VM. A VM of a source runs as the user that its record names.
    fn for_vm(&self, name: &VmName) -> Result<Self, HostError> {
        let started = started(name)?.map(|started| started.uid.to_string());
        Ok(Self { user: started.or_else(|| self.user.clone()), path: self.path.clone() })
    }

    /// The id of the user who gets taps, devices and sockets; `microvm` is the default.
    ///
    /// # Errors
    /// When the user does not exist, or the host's accounts cannot be looked at.
    pub fn vm_user(&self) -> Result<u32, HostError> {
        let user = self.user.as_deref().unwrap_or(DEFAULT_USER);
        if let Ok(uid) = user.parse() {
            return Ok(uid);
        }
        let found = accounts::user_id(user).map_err(io_error("the host's accounts cannot be read"))?;
        found.ok_or_else(|| HostError::NoUser(user.to_owned()))
    }

    /// The path of a program, from `known` or else from PATH.
    fn tool(&self, known: &BTreeMap<Tool, PathBuf>, tool: Tool) -> Result<PathBuf, HostError> {
        tool::find_all(known, &self.path).remove(&tool).ok_or(HostError::NoTool(tool))
    }
}

/// Why a unit cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call failed.
    #[error("{what}: {error}")]
    Io {
        /// What does not work.
        what: String,
        /// The system's error.
        error: io::Error,
    },
    /// A user other than root could have written what root is to use.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The package cannot be read, or has errors.
    #[error(transparent)]
    Package(#[from] LoadError),
    /// A link cannot be made or removed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The VM cannot get its PCI devices.
    #[error("the host cannot give the VM its PCI devices")]
    Devices(Problems),
    /// Another VM runs with a link of the same id.
    #[error("{client} still runs with the link id {link}: stop or restart {client}")]
    LinkInUse {
        /// The id.
        link: LinkId,
        /// The VM.
        client: VmName,
    },
    /// The user who gets taps, devices and sockets does not exist.
    #[error("the host has no user {0}: create it, or set {USER_VARIABLE} to another")]
    NoUser(String),
    /// The VM's unit runs as a user who is not the VM's.
    #[error(
        "not started: its unit runs as user {is}, and its own user is {own}; remove User= from drop-ins of \
         microvm@, or give the VM that user id in the configuration"
    )]
    OtherUser {
        /// The user's id.
        is: u32,
        /// The VM's.
        own: u32,
    },
    /// The VM could fill the file system of the host's runtime directory.
    #[error(
        "not started: its runtime directory has no file system of its own; remove what gives microvm-set-booted@ \
         mounts that the host does not see, such as PrivateTmp= in a drop-in"
    )]
    Unlimited,
    /// The drop-ins of the VM that systemd has read are not those that the catalog gives it.
    #[error(
        "not started: it cannot run, or has changed since systemd read its units; run 'systemctl daemon-reload'"
    )]
    Outdated,
    /// The host lacks a program.
    #[error("the program {0} is not in PATH: install it ({origin})", origin = .0.origin())]
    NoTool(Tool),
}

impl HostError {
    /// Whether the host failed or lacks something, and not the VM's package.
    pub fn is_hosts(&self) -> bool {
        match self {
            Self::Package(error) => error.is_hosts(),
            Self::Untrusted(Untrusted::Io { error, .. }) => problem::is_hosts(error),
            Self::Untrusted(Untrusted::Writable { .. }) => false,
            _ => true,
        }
    }

    /// The problems behind it, if there are any.
    pub fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Devices(problems) | Self::Package(LoadError::Files { problems, .. }) => {
                problems.clone().into_sorted()
            }
            _ => Vec::new(),
        }
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
    let what = what.into();
    move |error| HostError::Io { what, error }
}

/// The package that a VM was started from, of which only root could have written
/// any part.
fn trusted_package(state: &StateDirectory, name: &VmName) -> Result<PathBuf, HostError> {
    Ok(trust::resolve_tree(&state.booted(name))?)
}

/// What the VM was started with, if it is a VM of a source.
fn started(name: &VmName) -> Result<Option<Started>, HostError> {
    Started::of(name).map_err(io_error(format!("{} cannot be read", Started::path(name).display())))
}

/// Becomes a script of a package, which only root could have written; returns only
/// when that fails.
fn become_trusted(script: &Path, environment: &Environment) -> HostError {
    let user = environment.user.iter().map(|user| (USER_VARIABLE, user));
    match trust::resolve(script) {
        Ok(script) => program::become_program(Command::new(script).envs(user)).into(),
        Err(untrusted) => untrusted.into(),
    }
}
