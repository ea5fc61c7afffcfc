// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`: from the sources to a new generation of the state directory.
//!
//! A round goes through six passes, one module each: *find* reads all sources,
//! *prepare* plans each VM by itself, *devices* and *block* take out VMs that cannot
//! run beside or without others, *keep* notes which of these still run, and *install* writes the packages and switches from
//! the old catalog to the new one by one rename. Wherever a round is interrupted,
//! one of the two is there, complete.

mod access;
mod apart;
mod as_it_was;
mod before;
mod block;
mod candidate;
mod changes;
mod clean_up;
mod devices;
mod find;
mod folder;
mod forget;
mod in_use;
mod install;
mod keep;
mod known;
mod leasing;
mod lock;
mod of_sources;
mod pins;
mod prepare;
mod round;
mod rounds;
mod runner;
mod trusted;
mod windows;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use changes::{Change, changes, limited};
pub use forget::{ForgetError, forget};
pub use pins::{Pin, Pins};
pub use rounds::Rounds;

use crate::base::architecture::Architecture;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::Tool;
use crate::config::Config;
use crate::plan::Accelerator;
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;
use crate::state::nix_store::NixStore;
use before::Before;
use known::Known;
use lock::Lock;
use round::Round;

/// What `sync` works with besides the configuration.
pub struct Surroundings<'a> {
    /// Where it installs the VMs.
    pub state: &'a StateDirectory,
    /// The architecture of the host.
    pub architecture: Architecture,
    /// Where the programs are that VMs need.
    pub tools: &'a BTreeMap<Tool, PathBuf>,
    /// What executes guests' instructions where the settings leave that to the program.
    pub accelerator: &'a dyn Fn() -> Accelerator,
    /// Whether the guests of QEMU can show windows, and why not.
    pub shows_windows: &'a dyn Fn() -> Result<(), String>,
    /// Whether passt has vhost-user, which Cloud Hypervisor needs for uplinks.
    pub has_vhost_user: &'a dyn Fn() -> bool,
    /// Whether the VMs will run in this host's units, as users of their own.
    pub for_units: bool,
    /// The Nix store that receives the packages; without one they are in the state directory.
    pub nix_store: Option<NixStore>,
    /// Called with the number of VM directories that `sync` has read, and of all.
    pub progress: &'a dyn Fn(usize, usize),
}

/// What a round did, or what it would do.
pub struct Synced {
    /// The current catalog.
    pub catalog: Catalog,
    /// The catalog before, if there was one.
    pub before: Option<Catalog>,
    /// The problems of sources, VM directories, settings and, once the catalog is
    /// switched, of the host.
    pub problems: Problems,
    /// What may differ on other hosts of the cluster.
    pub pins: Pins,
    /// Whether there is a new generation.
    pub changed: bool,
}

/// How a round ended.
pub enum Ended {
    /// With nothing to do: everything is as it was when a round reported these problems.
    AsItWas(Problems),
    /// With the catalog that is the current one now.
    Synced(Box<Synced>),
}

/// Brings the state directory up to date.
///
/// # Errors
/// When nothing was installed: the old catalog is still the current one.
fn run(config: &Config, host: &Surroundings<'_>) -> Result<Ended, Problem> {
    let lock = Lock::take(host.state)?;
    let mut known = Known::read(host.state, host.architecture);
    if let Some(problems) = known.as_it_was(config, host) {
        clean_up::own(host.state);
        return Ok(Ended::AsItWas(problems));
    }
    let found = find::all(config, host, known);
    let before = Before::read(host.state)?;
    Ok(Ended::Synced(Box::new(Round::decide(config, host, before, found).install(&lock)?)))
}

/// Finds out what a round would do, and writes nothing.
///
/// # Errors
/// When it could install nothing.
pub fn dry_run(config: &Config, host: &Surroundings<'_>) -> Result<Synced, Problem> {
    trusted::state(host.state)?;
    let before = Before::read(host.state)?;
    let found = find::all(config, host, Known::read(host.state, host.architecture));
    Ok(Round::decide(config, host, before, found).rehearse())
}
