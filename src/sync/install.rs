// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *install*: writes what was decided, and switches to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

use super::before::Before;
use super::in_use::InUse;
use super::known::Known;
use super::lock::Lock;
use super::round::{Built, Round};
use super::{Surroundings, Synced, clean_up, folder};
use crate::base::name::{VmId, VmName};
use crate::base::problem::Problem;
use crate::base::versioned;
use crate::package::identity::base_name;
use crate::package::{Package, WriteError};
use crate::state::catalog::{CATALOG_VERSION, Catalog};
use crate::state::directory::StateDirectory;
use crate::state::look::{is_directory, names, unless_missing};
use crate::state::nix_store::{self, NixStore, Roots};
use crate::state::place::PackagePlace;
use crate::state::{unreadable, unused, unwritable};
use crate::system::{accounts, durable};

impl Round<'_> {
    /// Makes this the current generation, unless nothing has changed, and cleans up.
    pub(super) fn install(self, lock: &Lock) -> Result<Synced, Problem> {
        let Self {
            config, host, before, leasing, sources, vms, built, mut problems, pins, mut known, ..
        } = self;
        let Before { catalog: before, leases: old_leases } = before;
        let state = host.state;
        let (generation, leases) = (next_generation(state)?, leasing.of_removed(&vms));
        let catalog = Catalog { version: CATALOG_VERSION, generation, sources, vms, leases };
        if host.for_units {
            // Before any other VM can have them.
            let directory = Path::new(accounts::DIRECTORY);
            let removed = leasing.released.iter().try_for_each(|uid| accounts::remove(directory, *uid));
            removed.map_err(unwritable(directory))?;
        }
        let new_vms = leasing.new_vms();
        let leases = leasing.into_leases();
        if leases != old_leases {
            // Before any other file uses them.
            leases.write(&state.leases())?;
        }
        if host.for_units {
            // Afterwards, since a VM without a mark counts as one that has run.
            let noted = new_vms.iter().try_for_each(|vm| unused::note(state, vm));
            noted.map_err(unwritable(&state.unused()))?;
        }
        // All that can fail comes before the switch, so that systemd reads every new catalog.
        let complete = complete_packages(state, before.as_ref(), &InUse::look(state)?)?;
        let mut has_new_folder = false;
        for name in built.keys() {
            has_new_folder |= folder::ensure(state, name)?;
        }
        let roots = Roots::of(state.root());
        let store_paths: BTreeSet<_> = built.values().flat_map(|built| built.store_paths.clone()).collect();
        if let Some(roots) = &roots {
            // Before the packages are in the store: its garbage collector may run at any time.
            roots.add(&store_paths)?;
        }
        let ids: BTreeMap<_, _> = catalog.runnable().map(|(vm, _)| (&vm.name, vm.id())).collect();
        for (name, built) in built.iter().filter(|(_, built)| complete.contains(&built.place)) {
            let Some(id) = ids.get(name) else { continue };
            if let Err(problem) = mend(host, id, built, roots.as_ref(), &mut known) {
                // It is no worse than it was, and other VMs need the new catalog.
                problems.push(problem);
            }
        }
        let is_missing = |built: &Built| built.files.is_some() && !complete.contains(&built.place);
        let missing: Vec<_> = built.iter().filter(|(_, built)| is_missing(built)).collect();
        let unchanged = before.clone().filter(|before| before.is_like(&catalog) && missing.is_empty());
        let changed = unchanged.is_none();
        let (catalog, synced, in_use) = match unchanged {
            Some(before) => {
                if has_new_folder {
                    durable::sync_file_system(state.root()).map_err(unwritable(state.root()))?;
                }
                lock.exclude_starts()?;
                let in_use = InUse::look(state)?;
                let synced = settle(state, before.generation);
                (before, synced, in_use)
            }
            None => {
                for (name, built) in missing {
                    write_package(host, name, built, roots.as_ref())?;
                }
                write_generation(state, &catalog, &built)?;
                // So that there is little to sync while no VM can start.
                durable::sync_file_system(state.root()).map_err(unwritable(state.root()))?;
                lock.exclude_starts()?;
                let in_use = InUse::look(state)?;
                let synced = switch(state, &catalog)?;
                (catalog, synced, in_use)
            }
        };
        match synced {
            Ok(()) => {
                clean_up::state_directory(state, &catalog, &in_use);
                if let Some(roots) = &roots {
                    clean_up::roots(roots, store_paths, &in_use);
                }
                if !changed {
                    known.write(config, host, &catalog, &problems);
                }
            }
            // A crash may bring the old catalog back, so nothing of it is removed.
            Err(problem) => problems.push(problem),
        }
        Ok(Synced { catalog, before, problems, pins, changed })
    }
}

/// The packages that are complete: those of the current catalog and of running VMs. A
/// killed process may have left others.
fn complete_packages(
    state: &StateDirectory,
    before: Option<&Catalog>,
    in_use: &InUse,
) -> Result<BTreeSet<PackagePlace>, Problem> {
    let mut named: BTreeSet<_> = in_use.packages.iter().cloned().map(PackagePlace::Here).collect();
    match before {
        Some(catalog) => named.extend(catalog.runnable().map(|(_, now)| now.package.clone())),
        None => {
            // VMs start from the links beside the catalog, whatever is wrong with that.
            let links = state.current_generation().join("vms");
            for name in unless_missing(names(&links)).map_err(unreadable(&links))?.unwrap_or_default() {
                let target =
                    unless_missing(std::fs::read_link(links.join(name))).map_err(unreadable(&links))?;
                let package = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
                named.extend(package.map(|package| PackagePlace::Here(package.to_owned())));
            }
        }
    }
    let mut complete = BTreeSet::new();
    for place in named {
        let path = place.path(state);
        let is_there = match place {
            PackagePlace::Here(_) => is_directory(&path).map_err(unreadable(&path))?,
            PackagePlace::At(_) => path.is_dir(),
        };
        if is_there {
            complete.insert(place);
        }
    }
    Ok(complete)
}

/// Writes one package; the caller syncs it.
fn write_package(
    host: &Surroundings<'_>,
    name: &VmName,
    built: &Built,
    roots: Option<&Roots>,
) -> Result<(), Problem> {
    let Some(files) = &built.files else { return Ok(()) };
    let (files, path) = (&*files.package(), built.place.path(host.state));
    match (&built.place, &host.nix_store) {
        (PackagePlace::At(_), Some(store)) => add_to_store(host.state, store, name, files, &path, roots),
        _ => write_into(files, &path),
    }
}

/// Adds a package to the Nix store, in the place of a damaged one.
fn add_to_store(
    state: &StateDirectory,
    store: &NixStore,
    name: &VmName,
    files: &Package,
    path: &Path,
    roots: Option<&Roots>,
) -> Result<(), Problem> {
    // The store takes the name of what it adds.
    let staging = state.staging();
    let staged = staging.join(base_name(name));
    write_into(files, &staged)?;
    let add = || {
        let added = store.add(&staged).map_err(unwritable(Path::new(nix_store::STORE)))?;
        if added != path {
            let error = format!("the store has it as {}", added.display());
            return Err(unwritable(path)(io::Error::other(error)));
        }
        files.is_in(path).map_err(unreadable(path))
    };
    if !add()? {
        let remove = || store.remove(path).map_err(|error| damaged(path, &error.to_string()));
        roots.map_or_else(remove, |roots| roots.without(path, remove))?;
        if !add()? {
            return Err(damaged(path, "it is no different afterwards"));
        }
    }
    durable::if_present(std::fs::remove_dir_all(&staging)).map(drop).map_err(unwritable(&staging))
}

/// The problem of a package in the Nix store that is not as it was added.
fn damaged(path: &Path, why: &str) -> Problem {
    Problem::host(
        path,
        format!("is damaged, and cannot be replaced in the store: {why}"),
        "stop the VM and all else that uses it, then sync again; nix-store --query --roots shows what does",
    )
}

/// Replaces a damaged package. In the state directory that is one step, since a VM may run
/// from it; a Nix store removes none that is in use.
fn mend(
    host: &Surroundings<'_>,
    vm: &VmId,
    built: &Built,
    roots: Option<&Roots>,
    known: &mut Known,
) -> Result<(), Problem> {
    let (state, Some(files)) = (host.state, &built.files) else { return Ok(()) };
    let path = built.place.path(state);
    if known.is_whole(vm, &path) {
        return Ok(());
    }
    let files = files.package();
    if files.is_in(&path).map_err(unreadable(&path))? {
        known.whole(vm, &path, &files);
        return Ok(());
    }
    if let PackagePlace::At(_) = built.place {
        return write_package(host, &vm.name, built, roots);
    }
    let staging = state.staging();
    write_into(&files, &staging)?;
    let mended = durable::sync_file_system(&staging)
        .and_then(|()| Ok(rustix::fs::renameat_with(CWD, &staging, CWD, &path, RenameFlags::EXCHANGE)?))
        .and_then(|()| durable::sync_directory(durable::open_directory(&state.packages())?))
        .and_then(|()| durable::if_present(std::fs::remove_dir_all(&staging)).map(drop));
    mended.map_err(unwritable(&path))
}

/// Writes a package into a new directory, in the place of an incomplete one.
fn write_into(files: &Package, path: &Path) -> Result<(), Problem> {
    durable::if_present(std::fs::remove_dir_all(path)).map_err(unwritable(path))?;
    durable::ensure_directory(path).map_err(unwritable(path))?;
    files.write_into(path).map_err(|error| match error {
        WriteError::Io { path, error } => unwritable(&path)(error),
        other => unwritable(path)(io::Error::other(other.to_string())),
    })
}

/// The first number that no generation has, finished or not.
fn next_generation(state: &StateDirectory) -> Result<u64, Problem> {
    let directory = state.generations();
    let names = names(&directory).map_err(unreadable(&directory))?;
    let last = names.iter().filter_map(|name| name.parse::<u64>().ok()).max();
    Ok(last.unwrap_or(0).saturating_add(1))
}

/// Writes a generation.
fn write_generation(
    state: &StateDirectory,
    catalog: &Catalog,
    packages: &BTreeMap<VmName, Built>,
) -> Result<(), Problem> {
    let directory = state.generation(catalog.generation);
    let links = directory.join("vms");
    for directory in [&directory, &links] {
        durable::create_directory(directory).map_err(unwritable(directory))?;
    }
    for (name, Built { place, .. }) in packages {
        let link = links.join(name.as_str());
        std::os::unix::fs::symlink(place.link(), &link).map_err(unwritable(&link))?;
    }
    let path = directory.join("catalog.json");
    let text = versioned::text_of(catalog);
    text.and_then(|text| durable::create_file(&path, &text, 0o644)).map_err(unwritable(&path))
}

/// Switches to a generation. The inner result is an error when it is the current one, but
/// a crash may bring the old one back.
fn switch(state: &StateDirectory, catalog: &Catalog) -> Result<Result<(), Problem>, Problem> {
    let current = state.current_generation();
    // Syncs all of the above before it renames.
    let switched = durable::switch_link(&current, &state.generation_link(catalog.generation));
    Ok(switched.map_err(unwritable(&current))?.map_err(unwritable(&current)))
}

/// Syncs the switch to the current generation, if there are others: a process that was
/// killed before it synced its switch has left them.
fn settle(state: &StateDirectory, current: u64) -> Result<(), Problem> {
    let generations = state.generations();
    let names = names(&generations).map_err(unreadable(&generations))?;
    if names.iter().all(|name| *name == current.to_string()) {
        return Ok(());
    }
    let own = durable::open_directory(&state.own());
    own.and_then(durable::sync_directory).map_err(unwritable(&state.current_generation()))
}
