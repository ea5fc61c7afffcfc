// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the unit files call: the host's side of one VM's life.
//!
//! Each function here is one line of a unit. All but [`run()`] are called as root.
//! They use what `booted` leads to, which [`set_booted`] notes first, so that
//! all of them mean the same package.

mod booted;
mod run;
mod shares;
mod taps;
mod trust;

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use booted::{clear_booted, is_current, set_booted};
pub use run::{run, stop};
pub use shares::serve_shares;
pub use taps::{tap_down, tap_up};

use crate::name::VmName;
use crate::state_directory::StateDirectory;

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
    /// A package holds something that makes no sense.
    #[error("{0}")]
    Package(String),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
    let what = what.into();
    move |error| HostError::Io { what, error }
}

/// The package that a VM was started from, which only root can have put there.
fn trusted_package(state: &StateDirectory, name: &VmName) -> Result<PathBuf, HostError> {
    Ok(trust::resolve(&state.booted(name))?)
}

/// Becomes a script of a package; returns only when that fails.
fn become_script(script: &Path, arguments: &[&str]) -> HostError {
    let error = Command::new(script).args(arguments).exec();
    io_error(format!("{} cannot be executed", script.display()))(error)
}

/// Binds a VM's PCI devices to the VFIO driver, by the package's own script.
///
/// # Errors
/// See [`HostError`].
pub fn pci_setup(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    let script = trust::resolve(&trusted_package(state, name)?.join("bin/pci-setup"))?;
    Err(become_script(&script, &[]))
}
