// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Contradictions in the configuration, which no single value of it shows.

use std::collections::BTreeMap;

use super::{Config, MAX_UID, MIN_UID, SourceConfig, SourceKind, Table, UidRange, may_be_a_vms};
use crate::base::name::{SourceName, VmName};
use crate::base::problem::{Problem, Problems};
use crate::link::id::LinkId;
use crate::package::planning::{self, Sizes};
use crate::plan::pci::PciAddress;

/// Everything that is wrong with a configuration and the tables of its VMs.
pub(super) fn check(config: &Config, tables: &[Table]) -> Problems {
    let mut check = Check { config, tables, problems: Problems::default() };
    for (index, source) in config.sources.iter().enumerate() {
        check.place(source);
        check.differs(source, config.sources.get(..index).unwrap_or_default());
    }
    check.values();
    for (index, table) in tables.iter().enumerate() {
        check.vm(table);
        check.same_vm(table, tables.get(..index).unwrap_or_default());
        check.runner(table);
        check.autostart(table);
    }
    check.links();
    check.devices();
    check.uids();
    check.problems
}

/// The settings that no VM can have.
pub(super) fn impossible(config: &Config) -> Problems {
    let mut problems = Problems::default();
    let tables = config.vms.values().map(|table| (format!("[vm.\"{}\"]", table.key), &table.settings));
    for (table, settings) in std::iter::once(("[defaults]".to_owned(), &config.defaults)).chain(tables) {
        let sizes = Sizes {
            memory_mib: settings.memory.unwrap_or(planning::DEFAULT_MEMORY_MIB),
            vcpus: settings.vcpus.unwrap_or(1),
            link_ports: settings.link_ports.unwrap_or(planning::DEFAULT_LINK_PORTS),
            devices: &settings.devices,
            wayland_memory_mib: settings.wayland_memory.unwrap_or(planning::DEFAULT_WAYLAND_MEMORY_MIB),
        };
        let found = planning::check_sizes(&sizes, &config.path);
        let named = |problem: Problem| Problem { cause: format!("{table} {}", problem.cause), ..problem };
        problems.extend(found.into_sorted().into_iter().map(named));
    }
    problems
}

struct Check<'a> {
    config: &'a Config,
    tables: &'a [Table],
    problems: Problems,
}

impl Check<'_> {
    fn error(&mut self, cause: impl Into<String>, remedy: impl Into<String>) {
        self.problems.error(&self.config.path, cause, remedy);
    }

    /// A source is at a path, or is a partition.
    fn place(&mut self, source: &SourceConfig) {
        let name = &source.name;
        match (source.path(), &source.partuuid) {
            (Some(path), None) if !path.is_absolute() => self
                .error(format!("the path of the source {name} is not absolute"), "write the path from / on"),
            (Some(_), None) => {}
            (None, Some(_)) if source.kind == SourceKind::UserPartition => {}
            (None, Some(_)) => self.error(
                format!("the source {name} has a partuuid, but is not a user-partition"),
                "mount the partition yourself and set path",
            ),
            (None, None) => self.error(
                format!("the source {name} has neither a path nor a partuuid"),
                "set path, or partuuid for a partition that appears by itself",
            ),
            (Some(_), Some(_)) => self.error(
                format!("the source {name} has both a path and a partuuid"),
                "keep path if you mount it yourself, partuuid if it should be mounted when it appears",
            ),
        }
        if *name == SourceName::configuration() {
            self.error(
                format!("the source name {name} is reserved for VMs that have a runner"),
                "rename the source",
            );
        }
    }

    /// No two sources have one name or one place.
    fn differs(&mut self, source: &SourceConfig, earlier: &[SourceConfig]) {
        let name = &source.name;
        let same_place = |other: &&SourceConfig| {
            other.vm_directories() == source.vm_directories()
                || (other.partuuid.is_some() && other.partuuid == source.partuuid)
        };
        if earlier.iter().any(|other| other.name == *name) {
            self.error(format!("two sources have the name {name}"), "rename one of them");
        }
        if let Some(other) = earlier.iter().find(same_place).filter(|other| other.name != *name) {
            self.error(
                format!("the sources {} and {name} are the same place", other.name),
                "remove one of them",
            );
        }
    }

    fn values(&mut self) {
        let Config { defaults, uids: UidRange { first, last }, tools, .. } = self.config;
        if !may_be_a_vms(*first) || !may_be_a_vms(*last) || last < first {
            self.error(
                format!("the user ids {first} to {last} are not a valid range for VMs"),
                format!("choose an unused range from {MIN_UID} on"),
            );
        }
        for (tool, program) in tools.iter().filter(|(_, program)| !program.is_absolute()) {
            self.error(
                format!("the path of {tool}, {}, is not absolute", program.display()),
                "write the path from / on",
            );
        }
        if defaults.runner.is_some() || defaults.uid.is_some() {
            self.error(
                "[defaults] sets runner or uid, which can only belong to one VM",
                "set it in the table of that VM",
            );
        }
        if !defaults.links.is_empty() {
            self.error("[defaults] declares links", "declare each in the table of its VM");
        }
        if !defaults.devices.is_empty() {
            self.error("[defaults] lists devices", "list each in the table of its VM");
        }
    }

    /// A table is for a VM that a source may have.
    fn vm(&mut self, Table { key, id, .. }: &Table) {
        let is_known =
            |name: &SourceName| self.config.source(name).is_some() || *name == SourceName::configuration();
        if !id.as_ref().is_some_and(|id| is_known(&id.source)) {
            let name = key.rsplit('/').next().unwrap_or(key);
            let why = VmName::new(name).err().map(|error| format!(": {error}")).unwrap_or_default();
            self.error(
                format!("[vm.\"{key}\"] names no VM of a source{why}"),
                "write [vm.\"SOURCE/NAME\"]; NAME alone is enough where there is only one source",
            );
        }
    }

    fn same_vm(&mut self, Table { key, id, .. }: &Table, earlier: &[Table]) {
        if let Some(id) = id
            && let Some(other) = earlier.iter().find(|other| other.id.as_ref() == Some(id))
        {
            self.error(
                format!("[vm.\"{}\"] and [vm.\"{key}\"] name the same VM, {id}", other.key),
                "merge the two tables",
            );
        }
    }

    /// A runner is for a VM of no source, and has most settings built in.
    fn runner(&mut self, Table { key, id, settings }: &Table) {
        let of_runners = id.as_ref().is_some_and(|id| id.source == SourceName::configuration());
        let Some(runner) = &settings.runner else {
            if of_runners {
                self.error(
                    format!("[vm.\"{key}\"] has no runner"),
                    "set runner = \"PATH\", or name the VM's source",
                );
            }
            return;
        };
        if id.is_some() && !of_runners {
            self.error(
                format!("[vm.\"{key}\"] sets runner, but is a VM of a source"),
                "write [vm.NAME]: a VM that has a runner belongs to no source",
            );
        }
        if !runner.is_absolute() {
            self.error(
                format!("the runner of [vm.\"{key}\"] is not an absolute path"),
                "write the path from / on",
            );
        }
        for setting in settings.of_a_definition() {
            self.error(
                format!("[vm.\"{key}\"] sets {setting}, which its runner has built in"),
                "remove that key here, and build the runner with it",
            );
        }
    }

    /// A VM does not ask for an autostart that its source does not allow.
    fn autostart(&mut self, Table { key, id, settings }: &Table) {
        let source = id.as_ref().and_then(|id| self.config.source(&id.source));
        if let Some(name) = source.filter(|source| !source.may_autostart()).map(|source| &source.name)
            && settings.autostart == Some(true)
        {
            self.error(
                format!("[vm.\"{key}\"] sets autostart, but source '{name}' does not allow it"),
                format!("set autostart = true for the [[source]] {name}, or remove it here"),
            );
        }
    }

    fn links(&mut self) {
        let mut links: BTreeMap<LinkId, &str> = BTreeMap::new();
        for Table { key, settings, .. } in self.tables {
            for id in settings.links.values() {
                if let Some(other) = links.insert(*id, key) {
                    self.error(
                        format!("[vm.\"{other}\"] and [vm.\"{key}\"] both declare the link id {id}"),
                        "change one of them",
                    );
                }
            }
        }
    }

    /// A device belongs to one VM, even while that VM does not run.
    fn devices(&mut self) {
        let mut devices: BTreeMap<PciAddress, &str> = BTreeMap::new();
        for Table { key, settings, .. } in self.tables {
            for device in &settings.devices {
                match devices.insert(*device, key) {
                    Some(other) if other == key => self.error(
                        format!("[vm.\"{key}\"] lists the device {device} twice"),
                        "remove one of them",
                    ),
                    Some(other) => self.error(
                        format!("[vm.\"{other}\"] and [vm.\"{key}\"] both list the device {device}"),
                        "give it to one of them",
                    ),
                    None => {}
                }
            }
        }
    }

    fn uids(&mut self) {
        let mut uids: BTreeMap<u32, &str> = BTreeMap::new();
        for (key, uid) in self.tables.iter().filter_map(|table| Some((&table.key, table.settings.uid?))) {
            if !may_be_a_vms(uid) {
                self.error(
                    format!("[vm.\"{key}\"] has the user id {uid}, which no VM can have"),
                    format!("choose an unused id from {MIN_UID} to {MAX_UID}"),
                );
            }
            if let Some(other) = uids.insert(uid, key) {
                self.error(
                    format!("[vm.\"{other}\"] and [vm.\"{key}\"] both have the user id {uid}"),
                    "change one of them",
                );
            }
        }
    }
}
