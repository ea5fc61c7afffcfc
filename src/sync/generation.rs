// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Installing a new generation in the state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use super::{Built, Content, SyncError};
use crate::base::name::VmName;
use crate::base::problem::Problem;
use crate::package::identity::base_name;
use crate::package::{self, LoadError, Package, WriteError};
use crate::state::catalog::{Catalog, CatalogError};
use crate::state::directory::StateDirectory;
use crate::state::nix_store::{self, NixStore, Roots};
use crate::system::durable;
use crate::system::trust::{self, Untrusted};

/// The state directory, which nobody else changes meanwhile.
pub(super) struct Transaction<'a> {
    state: &'a StateDirectory,
    before: Option<Catalog>,
    _lock: File,
}

/// What [`Transaction::install`] has made.
pub struct Installed {
    /// The catalog that is there now.
    pub catalog: Catalog,
    /// Whether it is a new one.
    pub changed: bool,
    /// Why a crash may bring the one before back, of which nothing was removed then.
    pub not_durable: Option<SyncError>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SyncError {
    let path = path.to_owned();
    move |error| SyncError::Io { path, error }
}

impl<'a> Transaction<'a> {
    /// Waits until nobody else changes the state directory, which is made if
    /// it is missing.
    pub fn begin(state: &'a StateDirectory) -> Result<Self, SyncError> {
        // VMs' users must be able to pass the directories, however early this is killed:
        // they must have their mode when they are made.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        for directory in directories(state) {
            durable::ensure_directory(&directory).map_err(at(&directory))?;
            trusted(&directory).map_err(SyncError::Refused)?;
        }
        let path = state.lock();
        // Whoever may open it may keep it, and VMs from starting: no VM's user may.
        let mut options = File::options();
        let lock =
            options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(at(&path))?;
        if lock.metadata().map_err(at(&path))?.permissions().mode() & 0o7777 != 0o600 {
            lock.set_permissions(Permissions::from_mode(0o600)).map_err(at(&path))?;
        }
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| at(&path)(e.into()))?;
        let path = state.catalog();
        let before = match Catalog::read(&path) {
            // It may be fine, and then so are its packages.
            Err(CatalogError::Io(error)) if !is_missing(&error) => return Err(at(&path)(error)),
            catalog => catalog.ok(),
        };
        Ok(Self { state, before, _lock: lock })
    }

    /// The current catalog. One that cannot be used is as good as none: all of
    /// it is made anew.
    pub fn catalog(&self) -> Option<Catalog> {
        self.before.clone()
    }

    /// Makes `catalog` and its packages the current generation, unless nothing
    /// has changed, and cleans up.
    pub fn install(
        &mut self,
        catalog: Catalog,
        built: &[Built],
        before: Option<&Catalog>,
        nix_store: Option<&NixStore>,
    ) -> Result<Installed, SyncError> {
        let unchanged = before.filter(|before| before.is_like(&catalog));
        let booted = self.booted()?;
        let started = self.started_packages(&booted)?;
        let kept = self.complete_packages(before, &started)?;
        // Before the switch, after which nothing may fail: then systemd is told.
        let names: BTreeSet<_> = built.iter().map(|b| &b.name).collect();
        let mut is_new = false;
        for name in &names {
            is_new |= self.ensure_folder(name)?;
        }
        let roots = Roots::of(self.state.root());
        let store_paths: BTreeSet<_> = built.iter().flat_map(|b| b.store_paths.clone()).collect();
        if let Some(roots) = &roots {
            // What is a root before it is there cannot be collected in between.
            roots.add(&store_paths).map_err(|(path, error)| SyncError::Io { path, error })?;
        }
        let stored: BTreeSet<_> =
            before.into_iter().flat_map(Catalog::runnable).map(|(_, now)| now.package.as_str()).collect();
        let is_there = |b: &Built| match b.content {
            // What is in a store is sure to be all there once it was put there.
            Content::Ours(_) if Path::new(&b.package).is_absolute() => {
                stored.contains(b.package.as_str()) && Path::new(&b.package).is_dir()
            }
            Content::Ours(_) => kept.contains(&b.package),
            Content::Elsewhere => true,
        };
        let missing: Vec<_> = built.iter().filter(|b| !is_there(b)).collect();
        let installed = match unchanged {
            Some(before) if missing.is_empty() => {
                if is_new {
                    let root = self.state.root();
                    durable::sync_file_system(root).map_err(at(root))?;
                }
                let not_durable = self.settle(before.generation).err();
                Installed { catalog: before.clone(), changed: false, not_durable }
            }
            _ => {
                for built in missing {
                    self.write_package(built, nix_store)?;
                }
                self.write(catalog, built)?
            }
        };
        if installed.not_durable.is_some() {
            return Ok(installed);
        }
        self.clean_up(&installed.catalog, &names, started);
        if let Some((roots, used)) = roots.zip(self.store_paths_in_use(&booted, store_paths)) {
            roots.retain(&used);
        }
        Ok(installed)
    }

    /// Writes one package, whose durability is the caller's care.
    fn write_package(&self, built: &Built, nix_store: Option<&NixStore>) -> Result<(), SyncError> {
        let Content::Ours(package) = &built.content else { return Ok(()) };
        match nix_store {
            Some(store) if Path::new(&built.package).is_absolute() => {
                // The store takes the name of what is added.
                let staging = self.state.staging();
                let path = staging.join(base_name(&built.name));
                write_into(package, &path)?;
                let added = store.add(&path).map_err(at(Path::new(nix_store::STORE)))?;
                if added != Path::new(&built.package) {
                    let error = format!("the store has it as {}", added.display());
                    return Err(at(Path::new(&built.package))(io::Error::other(error)));
                }
                remove_all(&staging).map_err(at(&staging))
            }
            _ => write_into(package, &self.state.packages().join(&built.package)),
        }
    }

    /// Writes a generation, and switches to it.
    fn write(&self, catalog: Catalog, built: &[Built]) -> Result<Installed, SyncError> {
        let generation = self.next_generation()?;
        let directory = self.state.generation(generation);
        let links = directory.join("vms");
        durable::create_directory(&directory).map_err(at(&directory))?;
        durable::create_directory(&links).map_err(at(&links))?;
        for Built { name, package, .. } in built {
            let link = links.join(name.as_str());
            std::os::unix::fs::symlink(StateDirectory::package_link(package), &link).map_err(at(&link))?;
        }
        let catalog = Catalog { generation, ..catalog };
        let path = directory.join("catalog.json");
        durable::create_file(&path, &catalog.to_text(), 0o644).map_err(at(&path))?;
        let current = self.state.current_generation();
        // Syncs all of the above before it renames.
        let switched = durable::switch_link(&current, &self.state.generation_link(generation));
        let not_durable = switched.map_err(at(&current))?.map_err(at(&current)).err();
        Ok(Installed { catalog, changed: true, not_durable })
    }

    /// Syncs the switch to the current generation, unless that was done: whoever
    /// was killed right after it leaves the generation before.
    fn settle(&self, current: u64) -> Result<(), SyncError> {
        let generations = self.state.generations();
        let names = names(&generations).map_err(at(&generations))?;
        if names.iter().all(|name| *name == current.to_string()) {
            return Ok(());
        }
        let own = durable::open_directory(&self.state.own());
        own.and_then(durable::sync_directory).map_err(at(&self.state.current_generation()))
    }

    /// A number that no generation has, also none that was not finished.
    fn next_generation(&self) -> Result<u64, SyncError> {
        let directory = self.state.generations();
        let names = names(&directory).map_err(at(&directory))?;
        let last = names.iter().filter_map(|name| name.parse::<u64>().ok()).max();
        Ok(last.unwrap_or(0).saturating_add(1))
    }

    /// The folders of VMs that were started, and from what. Nobody is noted there
    /// while this holds the lock.
    fn booted(&self) -> Result<BTreeMap<String, PathBuf>, SyncError> {
        let mut found = BTreeMap::new();
        for name in names(self.state.root()).map_err(at(self.state.root()))? {
            let booted = self.state.root().join(&name).join("booted");
            if let Some(target) = known(std::fs::read_link(&booted)).map_err(at(&booted))? {
                found.insert(name, target);
            }
        }
        Ok(found)
    }

    /// The packages of ours that VMs were started from.
    fn started_packages(&self, booted: &BTreeMap<String, PathBuf>) -> Result<BTreeSet<String>, SyncError> {
        // `booted` is free of links, which the way to the state directory may have.
        let packages = self.state.packages();
        let packages = packages.canonicalize().map_err(at(&packages))?;
        let mut parents: BTreeMap<&Path, bool> = BTreeMap::new();
        let mut found = BTreeSet::new();
        for target in booted.values() {
            let Some((parent, package)) = target.parent().zip(target.file_name().and_then(|n| n.to_str()))
            else {
                continue;
            };
            let is_ours = match parents.get(parent) {
                Some(is_ours) => *is_ours,
                None => known(parent.canonicalize()).map_err(at(parent))?.is_some_and(|it| it == packages),
            };
            parents.insert(parent, is_ours);
            if is_ours && is_directory(target).map_err(at(target))? {
                found.insert(package.to_owned());
            }
        }
        Ok(found)
    }

    /// The packages that are complete for sure: those of the current catalog,
    /// and those that VMs were started from.
    fn complete_packages(
        &self,
        catalog: Option<&Catalog>,
        started: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, SyncError> {
        let mut complete = started.clone();
        for package in catalog.into_iter().flat_map(packages_of) {
            let path = self.state.packages().join(package);
            if is_directory(&path).map_err(at(&path))? {
                complete.insert(package.to_owned());
            }
        }
        if catalog.is_none() {
            // Whatever has become of the catalog, the links beside it are what is started.
            let links = self.state.current_generation().join("vms");
            for name in known(names(&links)).map_err(at(&links))?.unwrap_or_default() {
                let target = known(std::fs::read_link(links.join(name))).map_err(at(&links))?;
                let package = target.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
                if let Some(package) = package
                    && is_directory(&self.state.packages().join(package)).map_err(at(&links))?
                {
                    complete.insert(package.to_owned());
                }
            }
        }
        Ok(complete)
    }

    /// The store paths that are needed: `current` ones, and those of VMs that run.
    /// Nothing when nobody can tell now.
    fn store_paths_in_use(
        &self,
        booted: &BTreeMap<String, PathBuf>,
        current: BTreeSet<PathBuf>,
    ) -> Option<BTreeSet<PathBuf>> {
        let mut used = current;
        for name in booted.keys() {
            let booted = self.state.root().join(name).join("booted");
            let Some(booted) = known(booted.canonicalize()).ok()? else { continue };
            used.extend(nix_store::path_of(&booted));
            match package::load(&booted) {
                Ok(plan) => used.extend(nix_store::paths_of(&plan)),
                Err(LoadError::Io { error, .. }) if !is_missing(&error) => return None,
                Err(_) => {}
            }
        }
        Some(used)
    }

    /// Makes a VM's folder, unless it is there; returns whether it has to be synced.
    fn ensure_folder(&self, name: &VmName) -> Result<bool, SyncError> {
        let (folder, current) = (self.state.vm(name), self.state.current(name));
        let wanted = StateDirectory::current_link(name);
        if std::fs::read_link(&current).is_ok_and(|found| found == wanted) {
            return Ok(false);
        }
        if folder.symlink_metadata().is_ok() {
            durable::ensure_directory(&folder).map_err(at(&folder))?;
            durable::replace_link(&current, &wanted).map_err(at(&current))?;
            return Ok(false);
        }
        // Complete, or not at all: an empty one would be nobody's.
        let temporary = durable::temporary_name(&folder).map_err(at(&folder))?;
        remove_folder(&temporary, name).map_err(at(&temporary))?;
        let made = durable::create_directory(&temporary)
            .and_then(|()| std::os::unix::fs::symlink(wanted, temporary.join("current")))
            .and_then(|()| std::fs::rename(&temporary, &folder));
        if made.is_err() {
            let _ = remove_folder(&temporary, name);
        }
        made.map_err(at(&folder)).map(|()| true)
    }

    /// Removes what nothing names any more. What cannot be removed now is the
    /// next time.
    fn clean_up(&self, catalog: &Catalog, runnable: &BTreeSet<&VmName>, started: BTreeSet<String>) {
        durable::remove_leftovers(&self.state.own());
        let _ = remove_all(&self.state.staging());
        let root = self.state.root();
        for name in names(root).unwrap_or_default() {
            if let Some(Ok(folder_of)) = durable::replaced_by(&name).map(VmName::new) {
                let _ = remove_folder(&root.join(&name), &folder_of);
            }
            let Ok(name) = VmName::new(&name) else { continue };
            let ours = std::fs::read_link(self.state.current(&name))
                .is_ok_and(|link| link == StateDirectory::current_link(&name));
            if ours || !self.state.is_anothers(&name) {
                durable::remove_leftovers(&self.state.vm(&name));
            }
            // What cannot be looked at may run.
            let may_run = || !matches!(known(self.state.booted(&name).symlink_metadata()), Ok(None));
            if ours && !runnable.contains(&name) && !may_run() {
                self.remove_folder_of(&name);
            }
        }
        let generation = catalog.generation.to_string();
        let mut used = started;
        used.extend(packages_of(catalog).map(str::to_owned));
        let unused = |directory: PathBuf, used: &dyn Fn(&str) -> bool| {
            for name in names(&directory).unwrap_or_default().iter().filter(|name| !used(name)) {
                let _ = remove_all(&directory.join(name));
            }
        };
        unused(self.state.generations(), &|name| name == generation);
        unused(self.state.packages(), &|name| used.contains(name));
    }

    /// Removes a VM's folder; if somebody has put more into it, only our link.
    fn remove_folder_of(&self, name: &VmName) {
        let (folder, current) = (self.state.vm(name), self.state.current(name));
        let Ok(found) = names(&folder) else { return };
        if found != ["current"] || folder.is_symlink() {
            let _ = std::fs::remove_file(current);
        } else if let Ok(temporary) = durable::temporary_name(&folder)
            // As it was made: an empty one would be nobody's.
            && std::fs::rename(&folder, &temporary).is_ok()
        {
            let _ = remove_folder(&temporary, name);
        }
    }
}

/// The packages of a catalog that are here: others are somebody else's care.
fn packages_of(catalog: &Catalog) -> impl Iterator<Item = &str> {
    let packages = catalog.runnable().map(|(_, runnable)| runnable.package.as_str());
    packages.filter(|package| Path::new(package).is_relative())
}

/// Removes a VM's folder that has a temporary name. One with anything else in
/// it than `current` is not of our making, and stays.
fn remove_folder(temporary: &Path, name: &VmName) -> io::Result<()> {
    let current = temporary.join("current");
    if std::fs::read_link(&current).is_ok_and(|found| found == StateDirectory::current_link(name)) {
        std::fs::remove_file(&current)?;
    }
    match std::fs::remove_dir(temporary) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes a package into a new directory. One that is there was not finished:
/// nothing names it.
fn write_into(package: &Package, path: &Path) -> Result<(), SyncError> {
    remove_all(path).map_err(at(path))?;
    durable::ensure_directory(path).map_err(at(path))?;
    package.write_into(path).map_err(|error| match error {
        WriteError::Io { path, error } => SyncError::Io { path, error },
        other => at(path)(io::Error::other(other.to_string())),
    })
}

/// Checks that nobody else decides where root writes and removes.
fn trusted(directory: &Path) -> Result<(), Problem> {
    told(directory, |directory| trust::resolve(directory).map(drop))
}

/// Checks the same of a VM's folder, in a state directory that was checked.
pub(super) fn trusted_folder(folder: &Path) -> Result<(), Problem> {
    told(folder, trust::check_in_trusted)
}

/// Checks it of those directories of ours that are there.
pub(super) fn trusted_state(state: &StateDirectory) -> Result<(), Problem> {
    let mut there = directories(state).into_iter().filter(|directory| directory.symlink_metadata().is_ok());
    there.try_for_each(|directory| trusted(&directory))
}

fn told(path: &Path, check: impl Fn(&Path) -> Result<(), Untrusted>) -> Result<(), Problem> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    check(path).map_err(|untrusted| {
        let (cause, remedy) = untrusted.cause_and_remedy();
        Problem::error(path, cause, remedy)
    })
}

/// The directories in which everything is.
fn directories(state: &StateDirectory) -> [PathBuf; 4] {
    [state.root().to_owned(), state.own(), state.generations(), state.packages()]
}

/// The names in a directory that are UTF-8; there are no others of ours.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Whether an error says that something is not there, or is not what was asked for.
fn is_missing(error: &io::Error) -> bool {
    // What is ours can be looked at, so what is not permitted is not ours.
    const MISSING: [Errno; 6] =
        [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::INVAL, Errno::LOOP, Errno::ACCESS];
    Errno::from_io_error(error).is_none_or(|error| MISSING.contains(&error))
}

/// Nothing where there is nothing, which is not the same as when nobody can tell.
fn known<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_missing(&error) => Ok(None),
        result => result.map(Some),
    }
}

fn is_directory(path: &Path) -> io::Result<bool> {
    Ok(known(path.metadata())?.is_some_and(|found| found.is_dir()))
}

fn remove_all(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
