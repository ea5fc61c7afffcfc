// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What running VMs were started with: records that only root can write.
//!
//! A VM whose definition, package, kernel or images are no longer those that it
//! was started with is *stale*. It runs on until the administrator restarts it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::name::{VmId, VmName};
use crate::base::printable::Printable;
use crate::base::versioned;
use crate::directory::stamp::FileStamp;
use crate::link::records;
use crate::package::identity;
use crate::state::catalog::{Catalog, CatalogLink, CatalogWayland, Runnable, VmState};
use crate::state::directory::StateDirectory;
use crate::state::place::PackagePlace;
use crate::system::durable;

/// Where the records are, one for each VM that runs.
pub const DIRECTORY: &str = "/run/microvm-spectrum/started";
/// The version of a record.
const VERSION: u32 = 1;

/// What one VM was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    version: u32,
    /// The VM of a source that it is.
    pub vm: VmId,
    /// The user id that it runs as.
    pub uid: u32,
    /// The generation of the catalog at that time.
    pub generation: u64,
    /// The package, free of links.
    pub package: PathBuf,
    /// The kernel, the images and the package's manifest at that time.
    pub files: Vec<FileStamp>,
    /// Where it shows its windows, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wayland: Option<CatalogWayland>,
}

impl Started {
    /// The record's file of the VM called `name`.
    pub fn path(name: &VmName) -> PathBuf {
        Path::new(DIRECTORY).join(format!("{name}.json"))
    }

    /// The record of the VM called `name` that starts now, if it can run by the catalog.
    pub fn now(catalog: &Catalog, name: &VmName, package: PathBuf, files: Vec<FileStamp>) -> Option<Self> {
        let vm = catalog.find(name)?;
        let VmState::Runnable(Runnable { uid, wayland, .. }) = &vm.state else { return None };
        let generation = catalog.generation;
        let (uid, wayland) = (*uid, *wayland);
        Some(Self { version: VERSION, vm: vm.id(), uid, generation, package, files, wayland })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self) -> io::Result<()> {
        durable::ensure_directory(Path::new(DIRECTORY))?;
        durable::replace_file(&Self::path(&self.vm.name), &versioned::text_of(self)?, 0o644)
    }

    /// The record of the VM called `name`; none when no VM of a source runs under this name.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub fn of(name: &VmName) -> io::Result<Option<Self>> {
        let Some(text) = durable::if_present(std::fs::read_to_string(Self::path(name)))? else {
            return Ok(None);
        };
        versioned::parse(&text, "a record of a start", VERSION).map(Some).map_err(io::Error::other)
    }

    /// All records.
    pub fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
        let names =
            entries.filter_map(|entry| VmName::new(entry.file_name().to_str()?.strip_suffix(".json")?).ok());
        let mut all: Vec<_> = names.filter_map(|name| Self::of(&name).ok().flatten()).collect();
        all.sort_by(|a, b| a.vm.cmp(&b.vm));
        all
    }

    /// Why the VM is stale; empty when it is not.
    ///
    /// A VM that cannot be started now is not stale: a restart would only stop it.
    pub fn stale(&self, catalog: &Catalog, state: &StateDirectory) -> Vec<Printable> {
        let Some(vm) = catalog.find(&self.vm.name) else { return Vec::new() };
        if vm.id() != self.vm {
            return vec![Printable::composed(format!("{} has taken its name", vm.id()))];
        }
        let VmState::Runnable(now) = &vm.state else { return Vec::new() };
        let mut why = Vec::new();
        let path = now.package.path(state);
        // A dry run has not written its packages, whose names tell their content.
        let is_planned = matches!(now.package, PackagePlace::Here(_)) && !path.exists();
        let package = if is_planned { Ok(path) } else { path.canonicalize() };
        if package.is_ok_and(|package| !self.has_package(&package)) {
            why.push(Printable::composed("its definition or its settings have changed"));
        }
        if now.uid != self.uid {
            why.push(Printable::composed(format!("its user id is {} now", now.uid)));
        }
        for CatalogLink { provider, id, .. } in &now.links {
            // One that itself is stale, or another VM that still runs under that name, does not count.
            let runs = catalog.runnable().find(|(vm, _)| vm.name == *provider).filter(|(vm, runnable)| {
                let running = Self::of(provider).ok().flatten();
                running.is_some_and(|running| running.vm == vm.id() && running.uid == runnable.uid)
            });
            let user = records::provider_user(provider, *id);
            if runs.zip(user).is_some_and(|((_, runnable), user)| runnable.uid != user) {
                why.push(Printable::composed(format!(
                    "its network provider {provider} has another user id now"
                )));
            }
        }
        // Another package says so by itself.
        if now.wayland != self.wayland && now.wayland.is_some() == self.wayland.is_some() {
            why.push(Printable::composed(
                "the session that shows its windows, or what its compositor must have, has changed",
            ));
        }
        // In the same generation, the record is the newer of the two.
        if catalog.generation != self.generation {
            let differs = |file: &&FileStamp| !self.files.contains(file);
            let known = |file: &&FileStamp| self.files.iter().any(|was| was.entry == file.entry);
            why.extend(
                now.files
                    .iter()
                    .filter(differs)
                    .filter(known)
                    .map(|f| Printable::composed(format!("{} has changed", f.entry.printable()))),
            );
        }
        why
    }

    /// Whether a package is the one that the VM was started from, or has the same
    /// content: one of them may be in a Nix store.
    fn has_package(&self, package: &Path) -> bool {
        let same_name = package.file_name().filter(|name| self.package.file_name() == Some(name));
        package == self.package || same_name.is_some_and(|it| identity::tells_content(it, &self.vm.name))
    }
}

/// Removes the record of a VM, if there is one.
///
/// # Errors
/// When there is one and it cannot be removed.
pub fn remove(name: &VmName) -> io::Result<()> {
    durable::if_present(std::fs::remove_file(Started::path(name))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_vm_whose_windows_belong_elsewhere_now_is_stale() {
        let catalog = |wayland: Value| -> Catalog {
            let vm = json!({
                "name": "a", "source": "user", "directory": "/P/svc/data/a", "state": "runnable", "uid": 70_000,
                "hypervisor": "qemu", "package": "/nowhere", "autostart": false, "links": [], "files": [],
                "wayland": wayland,
            });
            let catalog = json!({"version": 1, "generation": 1, "sources": [], "vms": [vm], "leases": []});
            serde_json::from_value(catalog).unwrap()
        };
        let state = StateDirectory::at(Path::new("/nowhere"));
        let name = VmName::new("a").unwrap();
        let started =
            Started::now(&catalog(json!({"user": 1000})), &name, "/nowhere".into(), Vec::new()).unwrap();
        assert_eq!(started.stale(&catalog(json!({"user": 1000})), &state), []);
        for other in
            [json!({"user": 1001}), json!({}), json!({"user": 1000, "without_security_context": true})]
        {
            let [why] = started.stale(&catalog(other), &state).try_into().unwrap();
            assert!(why.as_str().starts_with("the session that shows its windows"), "{}", why.as_str());
        }
        // A record of an earlier version says nothing of windows.
        let mut record = serde_json::to_value(&started).unwrap();
        record.as_object_mut().unwrap().remove("wayland");
        let earlier: Started = serde_json::from_value(record).unwrap();
        assert_eq!(earlier.stale(&catalog(Value::Null), &state), []);
    }
}
