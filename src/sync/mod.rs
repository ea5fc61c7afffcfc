// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`: from the sources to a new generation of the state directory.
//!
//! All sources are scanned, runner packages are built for what changed, and one
//! rename switches from the old catalog to the new one. Whenever it is
//! interrupted, the old catalog or the new one is there, complete.

mod access;
mod apart;
mod forget;
mod generation;
mod leasing;
mod prepare;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

pub use forget::{ForgetError, forget};

use crate::base::architecture::Architecture;
use crate::base::name::{VmId, VmName};
use crate::base::problem::{Problem, Problems};
use crate::base::tool::Tool;
use crate::config::Config;
use crate::package::Package;
use crate::plan::Accelerator;
use crate::state::catalog::{CATALOG_VERSION, Catalog};
use crate::state::directory::StateDirectory;
use crate::state::leases::Leases;
use crate::state::nix_store::NixStore;
use generation::Transaction;

/// What `sync` is given besides the configuration.
pub struct Host<'a> {
    /// Where the VMs go.
    pub state: &'a StateDirectory,
    /// The architecture of the host.
    pub architecture: Architecture,
    /// Where the programs are that running VMs takes.
    pub tools: BTreeMap<Tool, PathBuf>,
    /// Tells what executes guests' instructions when nobody chose; asked once at most.
    pub accelerator: &'a mut dyn FnMut() -> Accelerator,
    /// User ids that somebody else has.
    pub taken_uids: BTreeSet<u32>,
    /// User ids that VMs run as now, which may not be those that they have leased.
    pub running_uids: BTreeMap<u32, VmId>,
    /// Whether the VMs will run in the units here, as users of their own.
    pub for_units: bool,
    /// The Nix store that packages are put into, if they are.
    pub nix_store: Option<&'a NixStore>,
    /// Told how many VMs have been looked at, and of how many.
    pub progress: &'a mut dyn FnMut(usize, usize),
}

/// Why `sync` could do nothing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The state directory is not what it should be.
    #[error("{0}")]
    Refused(Problem),
    /// The system refused.
    #[error("{} cannot be written: {error}", .path.display())]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// What `sync` did, or would do.
pub struct Synced {
    /// The catalog that is there now.
    pub catalog: Catalog,
    /// The catalog that was there before, if there was one.
    pub before: Option<Catalog>,
    /// What is wrong with sources, VM directories and settings.
    pub problems: Problems,
    /// Whether there is a new generation.
    pub changed: bool,
    /// Why a crash may bring the catalog before back.
    pub not_durable: Option<SyncError>,
}

/// Where a VM's package comes from.
enum Content {
    /// It is written into the state directory, or into a store, by this name.
    Ours(Package),
    /// It was built elsewhere.
    Elsewhere,
}

/// A VM that can run, and its package.
struct Built {
    name: VmName,
    /// As [`Runnable`](crate::state::catalog::Runnable) has it.
    package: String,
    content: Content,
    /// What of a Nix store running it takes.
    store_paths: BTreeSet<PathBuf>,
}

/// Brings the state directory up to date.
///
/// # Errors
/// When nothing could be done; the old catalog is then still there.
pub fn run(config: &Config, mut host: Host<'_>) -> Result<Synced, SyncError> {
    let mut state = Transaction::begin(host.state)?;
    let before = state.catalog();
    let leases = Leases::read(&host.state.leases()).map_err(SyncError::Refused)?;
    let scanned = scan::all(config, &mut host, leases.clone(), before.as_ref());
    if scanned.leases != leases {
        // Before anything is called by them.
        scanned
            .leases
            .write(&host.state.leases())
            .map_err(|error| SyncError::Io { path: host.state.leases(), error })?;
    }
    let installed = state.install(scanned.catalog, &scanned.built, before.as_ref(), host.nix_store)?;
    let generation::Installed { catalog, changed, not_durable } = installed;
    Ok(Synced { catalog, before, problems: scanned.problems, changed, not_durable })
}

/// Says what [`run`] would do, and writes nothing.
///
/// # Errors
/// When nothing could be done.
pub fn dry_run(config: &Config, mut host: Host<'_>) -> Result<Synced, SyncError> {
    generation::trusted_state(host.state).map_err(SyncError::Refused)?;
    let before = Catalog::read(&host.state.catalog()).ok();
    let leases = Leases::read(&host.state.leases()).map_err(SyncError::Refused)?;
    let scanned = scan::all(config, &mut host, leases, before.as_ref());
    let changed = !before.as_ref().is_some_and(|before| before.is_like(&scanned.catalog));
    Ok(Synced { catalog: scanned.catalog, before, problems: scanned.problems, changed, not_durable: None })
}

/// A catalog that has no generation yet.
fn catalog_of_no_generation() -> Catalog {
    Catalog {
        version: CATALOG_VERSION,
        generation: 0,
        sources: Vec::new(),
        vms: Vec::new(),
        leases: Vec::new(),
    }
}
