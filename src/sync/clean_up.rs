// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Removing what neither the current catalog nor a running VM names.
//!
//! A later sync removes what this one cannot remove.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::folder;
use super::in_use::InUse;
use crate::base::name::VmName;
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;
use crate::state::look::{names, unless_missing};
use crate::state::nix_store::Roots;
use crate::state::unused;
use crate::system::durable;

/// Removes what killed processes have left in the program's own directory.
pub(super) fn own(state: &StateDirectory) {
    durable::remove_leftovers(&state.own());
    let _ = std::fs::remove_dir_all(state.staging());
}

/// Removes folders, generations and packages that are not in use any more, and what
/// killed processes have left.
pub(super) fn state_directory(state: &StateDirectory, catalog: &Catalog, in_use: &InUse) {
    own(state);
    let runnable: BTreeSet<_> = catalog.runnable().map(|(vm, _)| &vm.name).collect();
    for name in names(state.root()).unwrap_or_default() {
        if let Some(Ok(folder_of)) = durable::replaced_by(&name).map(VmName::new) {
            let _ = folder::remove_temporary(&state.root().join(&name), &folder_of);
        }
        if let Ok(name) = VmName::new(&name) {
            clean_folder(state, &name, runnable.contains(&name));
        }
    }
    let removed = catalog.leases.iter().map(|lease| &lease.vm.name);
    let there: BTreeSet<_> =
        catalog.vms.iter().map(|vm| &vm.name).chain(removed).map(VmName::as_str).collect();
    unused::clean_up(&state.unused(), |name| there.contains(name));
    let generation = catalog.generation.to_string();
    remove_others(&state.generations(), |name| name == generation);
    let named: BTreeSet<_> = catalog.runnable().filter_map(|(_, now)| now.package.name()).collect();
    remove_others(&state.packages(), |name| named.contains(name) || in_use.packages.contains(name));
}

/// Removes a VM's folder unless the VM can run or may be running.
fn clean_folder(state: &StateDirectory, name: &VmName, can_run: bool) {
    let link = std::fs::read_link(state.current(name));
    let ours = link.is_ok_and(|link| link == StateDirectory::current_link(name));
    if ours || matches!(state.is_anothers(name), Ok(false)) {
        durable::remove_leftovers(&state.vm(name));
    }
    // If the link cannot be looked at, the VM may be running.
    let may_run = || !matches!(unless_missing(state.booted(name).symlink_metadata()), Ok(None));
    if ours && !can_run && !may_run() {
        folder::remove(state, name);
    }
}

fn remove_others(directory: &Path, is_used: impl Fn(&str) -> bool) {
    for name in names(directory).unwrap_or_default().iter().filter(|name| !is_used(name)) {
        let _ = std::fs::remove_dir_all(directory.join(name));
    }
}

/// Removes the roots of store paths other than `current` and those of running VMs;
/// none when one of these VMs cannot be looked at.
pub(super) fn roots(roots: &Roots, mut current: BTreeSet<PathBuf>, in_use: &InUse) {
    if let Some(of_running) = in_use.store_paths() {
        current.extend(of_running);
        roots.retain(&current);
    }
}
