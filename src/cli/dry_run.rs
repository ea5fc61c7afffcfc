// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync --dry-run`: what would be done.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};

use super::tell_systemd::{newly_started, removed, to_restart};
use super::{Exit, report};
use crate::base::name::VmId;
use crate::host::units;
use crate::state::catalog::{Catalog, CatalogVm, VmState};
use crate::state::directory::StateDirectory;
use crate::state::started::Started;
use crate::sync::Synced;

/// Prints a line for each VM that would become another, and for each that would
/// be started or stopped.
pub(super) fn print(synced: &Synced, state: &StateDirectory, with_systemd: bool) -> Exit {
    let mut lines = changes(synced.before.as_ref(), &synced.catalog);
    if with_systemd {
        let (catalog, running) = (&synced.catalog, Started::all());
        lines.extend(removed(&running, catalog, state).map(|started| format!("stop {}", started.vm)));
        let new = newly_started(catalog, &units::autostarted());
        lines.extend(new.iter().map(|unit| format!("start {unit}")));
        lines.extend(to_restart(&running, catalog, state).map(|started| format!("restart {}", started.vm)));
    }
    if lines.is_empty() {
        let what = if synced.changed { "write a new catalog" } else { "nothing to do" };
        lines.push(what.to_owned());
    }
    let mut out = io::stdout().lock();
    match lines.iter().try_for_each(|line| writeln!(out, "{line}")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report::line(&format!("the plan cannot be written: {error}"));
            Exit::Host
        }
        _ => Exit::Fine,
    }
}

/// What becomes of each VM.
fn changes(before: Option<&Catalog>, after: &Catalog) -> Vec<String> {
    let was: BTreeMap<VmId, &CatalogVm> =
        before.iter().flat_map(|catalog| &catalog.vms).map(|vm| (vm.id(), vm)).collect();
    let is: BTreeMap<VmId, &CatalogVm> = after.vms.iter().map(|vm| (vm.id(), vm)).collect();
    let all: BTreeSet<_> = was.keys().chain(is.keys()).collect();
    let change = |id: &VmId| {
        let Some(now) = is.get(id) else { return Some(format!("remove {id}")) };
        let old = was.get(id).map(|vm| &vm.state);
        match (&now.state, old) {
            (now, Some(old)) if now == old => None,
            (VmState::Runnable(now), Some(VmState::Runnable(old))) if now.package == old.package => {
                Some(format!("update {id}"))
            }
            (VmState::Runnable(_), Some(VmState::Runnable(_))) => Some(format!("change {id}")),
            (VmState::Runnable(_), _) => Some(format!("install {id}")),
            (state, _) => Some(format!("list {id} as {}", state.as_str())),
        }
    };
    all.into_iter().filter_map(change).collect()
}
