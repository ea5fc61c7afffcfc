// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How two catalogs differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::name::VmId;
use crate::state::catalog::{Catalog, CatalogVm, VmState};

/// What a sync makes of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The VM can run, which it could not before.
    Install,
    /// It gets another package.
    Change,
    /// It keeps its package, and something else about it changes.
    Update,
    /// It cannot run, and is listed in this state.
    List(&'static str),
    /// It is in no source any more.
    Remove,
}

/// What becomes of each VM that changes, in the order of sources and names.
pub fn changes(before: Option<&Catalog>, after: &Catalog) -> Vec<(VmId, Change)> {
    let was: BTreeMap<VmId, &CatalogVm> =
        before.iter().flat_map(|catalog| &catalog.vms).map(|vm| (vm.id(), vm)).collect();
    let is: BTreeMap<VmId, &CatalogVm> = after.vms.iter().map(|vm| (vm.id(), vm)).collect();
    let all: BTreeSet<_> = was.keys().chain(is.keys()).cloned().collect();
    let change = |id: &VmId| {
        let Some(now) = is.get(id) else { return Some(Change::Remove) };
        match (&now.state, was.get(id).map(|vm| &vm.state)) {
            (now, Some(old)) if now == old => None,
            (VmState::Runnable(now), Some(VmState::Runnable(old))) if now.package == old.package => {
                Some(Change::Update)
            }
            (VmState::Runnable(_), Some(VmState::Runnable(_))) => Some(Change::Change),
            (VmState::Runnable(_), _) => Some(Change::Install),
            (state, _) => Some(Change::List(state.as_str())),
        }
    };
    all.into_iter().filter_map(|id| change(&id).map(|change| (id, change))).collect()
}
