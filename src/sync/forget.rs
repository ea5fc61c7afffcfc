// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Ending the leases of VMs that are gone.

use std::collections::BTreeSet;

use super::SyncError;
use super::generation::Transaction;
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::problem::Problem;
use crate::state::directory::StateDirectory;
use crate::state::leases::Leases;
use crate::state::started::Started;

/// Why a VM cannot be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nothing is known of it.
    #[error("nothing is leased to a VM '{0}'; microvm-spectrum list --all shows who has something")]
    Unknown(String),
    /// It is there.
    #[error("{0} is in its source, and would get something else at once: remove it there, then sync")]
    There(VmId),
    /// It runs.
    #[error("{0} still runs: microvm-spectrum stop {name}", name = .0.name)]
    Running(VmId),
    /// Which is meant is not clear.
    #[error("several VMs have this name: say which, {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    Several(Vec<VmId>),
    /// The state directory cannot be changed.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

/// Ends the leases of VMs: of those that are named, `SOURCE/NAME` or NAME where
/// that is clear, and of all of `sources`, when they are gone. All, or none.
///
/// `before` is called for each VM that will be forgotten, with its user id, while
/// it has that: what is done then and interrupted can be done again. Returns the
/// VMs. The catalog is left to the next `sync`.
///
/// # Errors
/// Every reason why not.
pub fn forget(
    state: &StateDirectory,
    names: &[String],
    sources: &[SourceName],
    mut before: impl FnMut(&VmId, Option<u32>) -> Result<(), SyncError>,
) -> Result<Vec<VmId>, Vec<ForgetError>> {
    let one = |error: SyncError| vec![ForgetError::Sync(error)];
    let transaction = Transaction::begin(state).map_err(one)?;
    let path = state.leases();
    let mut leases = Leases::read(&path).map_err(|problem| one(SyncError::Refused(problem)))?;
    let catalog = transaction.catalog();
    if catalog.is_none() && state.catalog().symlink_metadata().is_ok() {
        return Err(one(SyncError::Refused(Problem::error(
            state.catalog(),
            "is no catalog that can be used, so that nobody can tell which VMs are gone",
            "make it anew: microvm-spectrum sync",
        ))));
    }
    let is_there =
        |vm: &VmId| catalog.iter().any(|catalog| catalog.vms.iter().any(|other| other.id() == *vm));
    let leased: BTreeSet<VmId> = leases.all().map(|(vm, ..)| vm.clone()).collect();
    let (mut chosen, mut refused) = (BTreeSet::new(), Vec::new());
    for text in names {
        let named: Vec<_> = match (text.parse::<VmId>(), VmName::new(text)) {
            (Ok(id), _) => leased.get(&id).cloned().into_iter().collect(),
            (_, Ok(name)) => leased.iter().filter(|vm| vm.name == name).cloned().collect(),
            _ => Vec::new(),
        };
        // One that is there is not meant, where another is gone.
        let gone: Vec<_> = named.iter().filter(|vm| !is_there(vm)).cloned().collect();
        match (named.as_slice(), gone.as_slice()) {
            ([], _) => refused.push(ForgetError::Unknown(text.clone())),
            (_, [vm]) => drop(chosen.insert(vm.clone())),
            ([vm, ..], []) => refused.push(ForgetError::There(vm.clone())),
            (_, several) => refused.push(ForgetError::Several(several.to_vec())),
        }
    }
    chosen.extend(leased.iter().filter(|vm| sources.contains(&vm.source) && !is_there(vm)).cloned());
    for vm in &chosen {
        let is_another = Started::of(&vm.name).is_some_and(|started| started.vm != *vm);
        if state.booted(&vm.name).symlink_metadata().is_ok() && !is_another {
            refused.push(ForgetError::Running(vm.clone()));
        }
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    for vm in &chosen {
        let uid = leases.forget(vm);
        before(vm, uid).map_err(one)?;
    }
    if !chosen.is_empty() {
        leases.write(&path).map_err(|error| one(SyncError::Io { path, error }))?;
    }
    Ok(chosen.into_iter().collect())
}
