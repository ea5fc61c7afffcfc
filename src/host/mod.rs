// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the unit files call: the host's side of one VM's life.
//!
//! Each function here is one line of a unit. Units call all but [`run()`] as root.
//! They use what `booted` leads to, which [`set_booted`] notes first, so that
//! all of them mean the same package. Besides, [`apply`] has systemd do what `sync`
//! decided. Only [`cli`](crate::cli) may use this stage.

pub mod apply;
mod booted;
mod links;
mod mounts;
mod pci;
mod run;
mod shares;
mod taps;
pub mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use booted::{clear_booted, is_current, set_booted};
pub use links::{links_down, links_up};
pub use mounts::watch_mounts;
pub use pci::{pci_release, pci_setup, pci_setup_devices};
pub use run::{run, stop};
pub use shares::serve_shares;
pub use taps::{tap_down, tap_up};

use crate::base::name::VmName;
use crate::base::problem::{self, Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::link::id::LinkId;
use crate::link::taps::WireError;
use crate::package::LoadError;
use crate::state::directory::StateDirectory;
use crate::system::accounts;
use crate::system::program::{self, ProgramError};
use crate::system::trust::{self, Untrusted};

/// The environment variable in which units name the VM's user.
pub const USER_VARIABLE: &str = "MICROVM_SPECTRUM_USER";
/// The user as whom microvm.nix runs all VMs.
const DEFAULT_USER: &str = "microvm";

/// What the caller's environment says.
#[derive(Debug, Clone)]
pub struct Environment {
    /// [`USER_VARIABLE`]: the user's name or id, for whom taps, devices and sockets are.
    pub user: Option<String>,
    /// PATH, for programs that a package does not name.
    pub path: OsString,
}

impl Environment {
    /// The id of the user for whom taps, devices and sockets are; that of the user
    /// `microvm` where none is named.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn vm_user(&self) -> Result<u32, HostError> {
        let user = self.user.as_deref().unwrap_or(DEFAULT_USER);
        if let Ok(uid) = user.parse() {
            return Ok(uid);
        }
        let found = accounts::user_id(user).map_err(io_error("the host's accounts cannot be read"))?;
        found.ok_or_else(|| HostError::NoUser(user.to_owned()))
    }

    /// The path of a program: the one in `known`, or else that in PATH.
    fn tool(&self, known: &BTreeMap<Tool, PathBuf>, tool: Tool) -> Result<PathBuf, HostError> {
        tool::find_all(known, &self.path).remove(&tool).ok_or(HostError::NoTool(tool))
    }
}

/// Why a unit cannot do its part.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's error.
        error: io::Error,
    },
    /// Another user than root could have put there what root is to use.
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
    /// The VM cannot have its PCI devices.
    #[error("the host cannot give it its PCI devices")]
    Devices(Problems),
    /// Another VM runs with a link of the same id.
    #[error(
        "the link id {link} is still that of {client}, which was started with it: stop or restart {client}"
    )]
    LinkInUse {
        /// The id.
        link: LinkId,
        /// The VM.
        client: VmName,
    },
    /// The user for whom taps, devices and sockets are does not exist.
    #[error("the host has no user {0}: create it, or name another in {USER_VARIABLE}")]
    NoUser(String),
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

/// The package that a VM was started from, which only root can have put there,
/// with all that is in it.
fn trusted_package(state: &StateDirectory, name: &VmName) -> Result<PathBuf, HostError> {
    Ok(trust::resolve_tree(&state.booted(name))?)
}

/// Becomes a script of a package, which only root can have put there; returns only
/// when that fails.
fn become_trusted(script: &Path) -> HostError {
    match trust::resolve(script) {
        Ok(script) => program::become_program(&mut Command::new(script)).into(),
        Err(untrusted) => untrusted.into(),
    }
}
