// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How two catalogs differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::name::{SourceName, VmId};
use crate::state::catalog::{Catalog, CatalogVm, Runnable, VmState};

/// The most lines about the VMs of one source.
const MAX_LINES: usize = 100;

/// What a sync makes of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was in no source before, and can run.
    New,
    /// It will run otherwise than before, in these respects.
    Changed(Vec<String>),
    /// It is in this state now.
    Is(&'static str),
    /// It is in no source any more.
    Removed,
}

impl Change {
    /// One line about the VM, in printable form.
    pub fn line(&self, vm: &VmId) -> String {
        match self {
            Self::New => format!("new {vm}"),
            Self::Changed(why) => format!("changed {vm}: {}", why.join(", ")),
            Self::Is(state) => format!("{state} {vm}"),
            Self::Removed => format!("removed {vm}"),
        }
    }
}

/// What becomes of each VM that changes, in the order of sources and names.
pub fn changes(before: Option<&Catalog>, after: &Catalog) -> Vec<(VmId, Change)> {
    let was: BTreeMap<VmId, &CatalogVm> =
        before.iter().flat_map(|catalog| &catalog.vms).map(|vm| (vm.id(), vm)).collect();
    let is: BTreeMap<VmId, &CatalogVm> = after.vms.iter().map(|vm| (vm.id(), vm)).collect();
    let all: BTreeSet<_> = was.keys().chain(is.keys()).cloned().collect();
    let change = |id: &VmId| {
        let Some(now) = is.get(id) else { return Some(Change::Removed) };
        match (&now.state, was.get(id).map(|vm| &vm.state)) {
            (now, Some(old)) if now == old => None,
            (VmState::Runnable(now), Some(VmState::Runnable(old))) => Some(Change::Changed(why(old, now))),
            (VmState::Runnable(_), None) => Some(Change::New),
            (state, _) => Some(Change::Is(state.as_str())),
        }
    };
    all.into_iter().filter_map(|id| change(&id).map(|change| (id, change))).collect()
}

/// In which respects a VM differs that can run as before; at least one.
fn why(old: &Runnable, now: &Runnable) -> Vec<String> {
    let mut why = Vec::new();
    let mut differs = |differs: bool, what: &str| {
        if differs {
            why.push(what.to_owned());
        }
    };
    differs(now.package != old.package, "its definition or its settings");
    differs(now.uid != old.uid, "its user id");
    differs(now.links != old.links, "its links");
    differs(now.autostart && !old.autostart, "it starts with the host");
    differs(!now.autostart && old.autostart, "it does not start with the host any more");
    differs(now.restart_if_changed != old.restart_if_changed, "restart-if-changed");
    differs(now.cluster && !old.cluster, "the cluster manages it");
    differs(!now.cluster && old.cluster, "the cluster does not manage it any more");
    differs(now.wayland != old.wayland, "the session that shows its windows");
    let mut files = now.files.iter().filter(|file| !old.files.contains(file));
    if let Some(first) = files.next() {
        why.push(first.entry.printable().to_string());
        let more = files.count();
        why.extend((more > 0).then(|| format!("{more} more of its files")));
    } else if why.is_empty() {
        why.push("its files".to_owned());
    }
    why
}

/// Lines about VMs, no more than a person reads about those of one source: an untrusted
/// source decides how many VMs it has.
pub fn limited(lines: Vec<(VmId, String)>) -> Vec<String> {
    let mut numbers = BTreeMap::<SourceName, usize>::new();
    let mut all = Vec::new();
    for (vm, line) in lines {
        let number = numbers.entry(vm.source).or_default();
        *number += 1;
        if *number <= MAX_LINES {
            all.push(line);
        }
    }
    let more = |(source, number): (SourceName, usize)| match number.checked_sub(MAX_LINES) {
        None | Some(0) => None,
        Some(more) => Some(format!("and {more} more of the source {source}")),
    };
    all.extend(numbers.into_iter().filter_map(more));
    all
}
