// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the unit files call: the host's side of one VM's life.
//!
//! Each function here is one line of a unit. All but [`run()`] are called as root.
//! They use what `booted` leads to, which [`set_booted`] notes first, so that
//! all of them mean the same package.

mod booted;
mod links;
mod mounts;
mod pci;
mod run;
mod shares;
mod taps;
pub mod units;

use std::io;
use std::os::unix::process::CommandExt as _;
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
use crate::base::problem::{Problem, Problems};
use crate::link::id::LinkId;
use crate::link::taps::WireError;
use crate::state::directory::StateDirectory;
use crate::system::trust;

/// The environment variable in which units name the VM's user.
pub const USER_VARIABLE: &str = "MICROVM_SPECTRUM_USER";

/// Why a unit cannot do its part.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host refused.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's error.
        error: io::Error,
    },
    /// Somebody else than root could have put there what root is to use.
    #[error(transparent)]
    Untrusted(#[from] trust::Untrusted),
    /// A link cannot be made or removed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// PCI devices cannot be given away.
    #[error("{}", one_line(.0))]
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
    /// A package holds something that makes no sense.
    #[error("{0}")]
    Package(String),
}

/// Problems in one line, which is what a unit's status holds.
fn one_line(problems: &Problems) -> String {
    let text = |Problem { path, cause, remedy, .. }: &Problem| {
        format!("{}: {cause} (help: {remedy})", path.display())
    };
    problems.clone().into_sorted().iter().map(text).collect::<Vec<_>>().join("; ")
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

/// The user id of whom a unit names, or else of the user `microvm`, whom
/// microvm.nix runs all VMs as.
///
/// # Errors
/// When there is no such user.
pub fn vm_user() -> Result<u32, HostError> {
    let user = std::env::var(USER_VARIABLE).unwrap_or_else(|_| "microvm".to_owned());
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    let accounts = std::fs::read_to_string("/etc/passwd").map_err(io_error("/etc/passwd cannot be read"))?;
    accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&user.as_str()))
        .and_then(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| HostError::Package(format!("there is no user {user}")))
}

/// Becomes a script of a package; returns only when that fails.
fn become_script(script: &Path, arguments: &[&str]) -> HostError {
    let error = Command::new(script).args(arguments).exec();
    io_error(format!("{} cannot be executed", script.display()))(error)
}
