// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Releasing the user ids and link ids of removed VMs.

use std::collections::BTreeSet;
use std::path::Path;

use super::before::Before;
use super::lock::Lock;
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::problem::Problem;
use crate::state::catalog::CatalogVm;
use crate::state::directory::StateDirectory;
use crate::state::started::Started;
use crate::state::unwritable;
use crate::system::{accounts, systemd};

/// Why a VM cannot be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// It has no leases.
    #[error("no VM '{0}' has leases; microvm-spectrum list --all shows those that have")]
    Unknown(String),
    /// It is in its source.
    #[error("{0} still exists and would be given new leases: remove it from its source, then sync")]
    Exists(VmId),
    /// It is running.
    #[error("{0} is still running: microvm-spectrum stop {name}", name = .0.name)]
    Running(VmId),
    /// Several VMs have this name.
    #[error("several VMs have this name: write {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Several(Vec<VmId>),
    /// The state directory cannot be used.
    #[error("{0}")]
    State(#[from] Problem),
}

/// Ends the leases of removed VMs: of those in `names`, each `SOURCE/NAME` or, where
/// only one VM has it, NAME, and of all of `sources`. Ends all or none.
///
/// First it removes the accounts of their user ids in the directory `accounts`, if one is
/// given: if it is interrupted, it can be called again. systemd then forgets that units
/// which no VM has any more have failed. Returns the VMs. The next sync updates the catalog.
///
/// # Errors
/// Every reason why not.
pub fn forget(
    state: &StateDirectory,
    names: &[String],
    sources: &[SourceName],
    accounts: Option<&Path>,
) -> Result<Vec<VmId>, Vec<ForgetError>> {
    let refused = |problem: Problem| vec![ForgetError::State(problem)];
    let lock = Lock::take(state).map_err(refused)?;
    lock.exclude_starts().map_err(refused)?;
    let Before { catalog, mut leases } = Before::read(state).map_err(refused)?;
    if catalog.is_none() && state.catalog().symlink_metadata().is_ok() {
        return Err(refused(Problem::error(
            state.catalog(),
            "is not a catalog that this program can use, so it cannot tell which VMs were removed",
            "write a new one: microvm-spectrum sync",
        )));
    }
    let exist = catalog.iter().flat_map(|catalog| &catalog.vms).map(CatalogVm::id).collect();
    let leased: BTreeSet<VmId> = leases.all().map(|(vm, ..)| vm.clone()).collect();
    let mut errors = Vec::new();
    let mut chosen: BTreeSet<VmId> =
        leased.difference(&exist).filter(|vm| sources.contains(&vm.source)).cloned().collect();
    for name in names {
        match choose(name, &leased, &exist) {
            Ok(vm) => drop(chosen.insert(vm)),
            Err(error) => errors.push(error),
        }
    }
    errors.extend(chosen.iter().filter(|vm| is_running(state, vm)).cloned().map(ForgetError::Running));
    if !errors.is_empty() {
        return Err(errors);
    }
    for vm in &chosen {
        if let (Some(uid), Some(accounts)) = (leases.forget(vm), accounts) {
            accounts::remove(accounts, uid).map_err(unwritable(accounts)).map_err(refused)?;
        }
    }
    if !chosen.is_empty() {
        leases.write(&state.leases()).map_err(refused)?;
    }
    if accounts.is_some() && systemd::is_running() {
        // A VM of another source may have the name, and the units.
        let names: BTreeSet<_> = exist.iter().map(|vm| &vm.name).collect();
        let gone = chosen.iter().filter(|vm| !names.contains(&vm.name));
        systemd::reset_failed(&gone.flat_map(|vm| systemd::units_of(&vm.name)).collect::<Vec<_>>());
    }
    Ok(chosen.into_iter().collect())
}

/// The removed VM that `text` names. A VM that exists is not meant where another of its
/// name was removed.
fn choose(text: &str, leased: &BTreeSet<VmId>, exist: &BTreeSet<VmId>) -> Result<VmId, ForgetError> {
    let named: Vec<_> = match (text.parse::<VmId>(), VmName::new(text)) {
        (Ok(id), _) => leased.get(&id).into_iter().collect(),
        (_, Ok(name)) => leased.iter().filter(|vm| vm.name == name).collect(),
        _ => Vec::new(),
    };
    let removed: Vec<_> = named.iter().copied().filter(|vm| !exist.contains(vm)).collect();
    match (named.as_slice(), removed.as_slice()) {
        ([], _) => Err(ForgetError::Unknown(text.to_owned())),
        (_, [vm]) => Ok((*vm).clone()),
        ([vm, ..], []) => Err(ForgetError::Exists((*vm).clone())),
        (_, several) => Err(ForgetError::Several(several.iter().copied().cloned().collect())),
    }
}

/// Whether a VM is running, and not another of its name.
fn is_running(state: &StateDirectory, vm: &VmId) -> bool {
    let is_another = matches!(Started::of(&vm.name), Ok(Some(started)) if started.vm != *vm);
    state.booted(&vm.name).symlink_metadata().is_ok() && !is_another
}
