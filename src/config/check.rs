// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What no single value of the configuration shows: contradictions.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, MAX_UID, MIN_UID, SourceKind, UidRange, may_be_a_vms};
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::problem::Problems;
use crate::link::id::LinkId;
use crate::plan::pci::PciAddress;

impl Config {
    pub(super) fn check(&self, path: &Path) -> Problems {
        let mut problems = Problems::default();
        self.check_sources(path, &mut problems);
        let UidRange { first, last } = self.uids;
        if !may_be_a_vms(first) || !may_be_a_vms(last) || last < first {
            problems.error(
                path,
                format!("the user ids {first} to {last} are no range that VMs can have"),
                format!("choose a range that nobody else uses, from {MIN_UID} on"),
            );
        }
        for key in self.vm.keys() {
            self.check_key(key, path, &mut problems);
        }
        self.check_runners(path, &mut problems);
        self.check_autostart(path, &mut problems);
        self.check_links(path, &mut problems);
        self.check_devices(path, &mut problems);
        self.check_uids(path, &mut problems);
        for (tool, program) in self.tools.iter().filter(|(_, program)| !program.is_absolute()) {
            problems.error(
                path,
                format!("the path of {tool}, {}, is not absolute", program.display()),
                "write it from / on",
            );
        }
        problems
    }

    fn check_sources(&self, path: &Path, problems: &mut Problems) {
        for (index, source) in self.sources.iter().enumerate() {
            let name = &source.name;
            match (source.path(), &source.partuuid) {
                (Some(path_of_it), None) if !path_of_it.is_absolute() => problems.error(
                    path,
                    format!("the path of the source {name} is not absolute"),
                    "write it from / on",
                ),
                (Some(_), None) => {}
                (None, Some(_)) if source.kind == SourceKind::UserPartition => {}
                (None, Some(_)) => problems.error(
                    path,
                    format!("the source {name} has a partuuid and is no user-partition"),
                    "mount it, and write its path",
                ),
                (None, None) => problems.error(
                    path,
                    format!("the source {name} has neither a path nor a partuuid"),
                    "write where it is: path, or partuuid for a partition that appears by itself",
                ),
                (Some(_), Some(_)) => problems.error(
                    path,
                    format!("the source {name} has both a path and a partuuid"),
                    "write path if you mount it, partuuid if it is to be mounted when it appears",
                ),
            }
            if let Some(other) = self.sources.iter().take(index).find(|other| {
                other.vm_directories() == source.vm_directories()
                    || (other.partuuid.is_some() && other.partuuid == source.partuuid)
            }) && other.name != *name
            {
                problems.error(
                    path,
                    format!("the sources {} and {name} are the same place", other.name),
                    "remove one of them",
                );
            }
            if self.sources.iter().take(index).any(|other| other.name == *name) {
                problems.error(path, format!("two sources have the name {name}"), "rename one");
            }
            if *name == SourceName::configuration() {
                problems.error(
                    path,
                    format!("no source can be called {name}: so are the VMs that have a runner"),
                    "rename it",
                );
            }
        }
    }

    fn check_key(&self, key: &str, path: &Path, problems: &mut Problems) {
        let known = self.id_of(key).is_some_and(|id| {
            id.source == SourceName::configuration() || self.sources.iter().any(|s| s.name == id.source)
        });
        if !known {
            problems.error(
                path,
                format!("[vm.\"{key}\"] names no VM of a source"),
                "write [vm.\"SOURCE/NAME\"]; NAME alone is enough where there is only one source",
            );
        }
        let id = self.id_of(key);
        let twice = |other: &&String| other.as_str() != key && self.id_of(other) == id;
        if let Some(id) = &id
            && !key.contains('/')
            && let Some(other) = self.vm.keys().find(twice)
        {
            problems.error(
                path,
                format!("[vm.\"{key}\"] and [vm.\"{other}\"] name the same VM, {id}"),
                "write one table for it",
            );
        }
    }

    /// A package decides by itself what else is set of a VM.
    fn check_runners(&self, path: &Path, problems: &mut Problems) {
        if self.defaults.runner.is_some() || self.defaults.uid.is_some() {
            problems.error(
                path,
                "[defaults] has a runner or a uid, which only one VM can have",
                "write it in the table of that VM",
            );
        }
        for (key, vm) in &self.vm {
            let id = self.id_of(key);
            let of_runners = id.as_ref().is_some_and(|id| id.source == SourceName::configuration());
            match &vm.runner {
                Some(runner) => {
                    if !of_runners {
                        problems.error(
                            path,
                            format!("[vm.\"{key}\"] has a runner and is a VM of a source"),
                            "write [vm.NAME]: a VM that has a runner is of no source",
                        );
                    }
                    if !runner.is_absolute() {
                        problems.error(
                            path,
                            format!("the runner of [vm.\"{key}\"] is not an absolute path"),
                            "write it from / on",
                        );
                    }
                    for setting in vm.of_a_definition() {
                        problems.error(
                            path,
                            format!("[vm.\"{key}\"] has a runner, which decides about {setting} by itself"),
                            "remove that key here, and build the runner with it",
                        );
                    }
                }
                None if of_runners => problems.error(
                    path,
                    format!("[vm.\"{key}\"] has no runner"),
                    "write runner = \"PATH\", or the source that the VM is of",
                ),
                None => {}
            }
        }
    }

    /// What is written for one VM and would not be done.
    fn check_autostart(&self, path: &Path, problems: &mut Problems) {
        let started = self.vm.iter().filter(|(_, vm)| vm.autostart == Some(true));
        for key in started.map(|(key, _)| key) {
            let Some(VmId { source: name, .. }) = self.id_of(key) else { continue };
            if self.sources.iter().any(|source| source.name == name && !source.may_autostart()) {
                problems.error(
                    path,
                    format!("[vm.\"{key}\"] is to start with the host, and VMs of the source {name} may not"),
                    format!("write autostart = true for the [[source]] {name}, or remove it here"),
                );
            }
        }
    }

    fn check_links(&self, path: &Path, problems: &mut Problems) {
        let mut links: BTreeMap<LinkId, &String> = BTreeMap::new();
        for (key, id) in self.vm.iter().flat_map(|(key, vm)| vm.links.values().map(move |id| (key, *id))) {
            if let Some(other) = links.insert(id, key) {
                problems.error(
                    path,
                    format!("[vm.\"{other}\"] and [vm.\"{key}\"] both declare the link id {id}"),
                    "change one of them",
                );
            }
        }
        if !self.defaults.links.is_empty() {
            problems.error(path, "[defaults] declares links", "declare each in the table of its VM");
        }
    }

    /// A device is one VM's alone, whether it ever runs or not.
    fn check_devices(&self, path: &Path, problems: &mut Problems) {
        let mut devices: BTreeMap<PciAddress, &String> = BTreeMap::new();
        for (key, device) in self.vm.iter().flat_map(|(key, vm)| vm.devices.iter().map(move |d| (key, *d))) {
            match devices.insert(device, key) {
                Some(other) if other == key => problems.error(
                    path,
                    format!("[vm.\"{key}\"] lists the device {device} twice"),
                    "remove one of them",
                ),
                Some(other) => problems.error(
                    path,
                    format!("[vm.\"{other}\"] and [vm.\"{key}\"] both list the device {device}"),
                    "give it to one of them",
                ),
                None => {}
            }
        }
        if !self.defaults.devices.is_empty() {
            problems.error(path, "[defaults] lists devices", "list each in the table of its VM");
        }
    }

    fn check_uids(&self, path: &Path, problems: &mut Problems) {
        let mut uids: BTreeMap<u32, &String> = BTreeMap::new();
        for (key, uid) in self.vm.iter().filter_map(|(key, vm)| Some((key, vm.uid?))) {
            if !may_be_a_vms(uid) {
                problems.error(
                    path,
                    format!("[vm.\"{key}\"] has the user id {uid}, which no VM can have"),
                    format!("choose one that nobody else has, from {MIN_UID} to {MAX_UID}"),
                );
            }
            if let Some(other) = uids.insert(uid, key) {
                problems.error(
                    path,
                    format!("[vm.\"{other}\"] and [vm.\"{key}\"] both have the user id {uid}"),
                    "change one of them",
                );
            }
        }
    }

    /// The VM that a key of `[vm]` names.
    pub(super) fn id_of(&self, key: &str) -> Option<VmId> {
        if key.contains('/') {
            return key.parse().ok();
        }
        let name = VmName::new(key).ok()?;
        let has_runner = self.vm.get(key).is_some_and(|vm| vm.runner.is_some());
        let source = match self.sources.as_slice() {
            _ if has_runner => SourceName::configuration(),
            [source] => source.name.clone(),
            _ => return None,
        };
        Some(VmId { source, name })
    }
}
