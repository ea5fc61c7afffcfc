// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Contradictions in the configuration, which no single value of it shows.

use std::collections::BTreeMap;

use super::{Config, MAX_UID, MIN_UID, Settings, SourceConfig, SourceKind, Table, UidRange, may_be_a_vms};
use crate::base::name::{SourceName, VmName};
use crate::link::id::LinkId;
use crate::package::planning::{self, Sizes};
use crate::plan::pci::PciAddress;
use crate::plan::uplink::PortForward;

/// Something that is wrong with the configuration, and the keys that it is about.
pub(super) struct Mistake {
    /// The path of keys to the value; an element of an array has its index as a key.
    pub at: Vec<String>,
    /// The value that it contradicts.
    pub other: Option<Vec<String>>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// Everything that is wrong with a configuration, whose sources are in the order of the file,
/// and the tables of its VMs.
pub(super) fn check(config: &Config, tables: &[Table]) -> Vec<Mistake> {
    let mut check = Check { config, tables, mistakes: Vec::new() };
    for (index, source) in config.sources.iter().enumerate() {
        check.place(index, source);
        check.differs(index, source, config.sources.get(..index).unwrap_or_default());
    }
    check.values();
    check.cluster();
    for (index, table) in tables.iter().enumerate() {
        check.vm(table);
        check.same_vm(table, tables.get(..index).unwrap_or_default());
        check.runner(table);
        check.autostart(table);
    }
    check.links();
    check.devices();
    check.ports();
    check.uids();
    check.mistakes
}

/// The settings that no VM can have.
pub(super) fn impossible(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let tables = config.vms.values();
    let tables = tables.map(|it| (vec!["vm", it.key.as_str()], format!("[vm.\"{}\"]", it.key), &it.settings));
    let defaults = (vec!["defaults"], "[defaults]".to_owned(), &config.defaults);
    for (table, shown, settings) in std::iter::once(defaults).chain(tables) {
        // One key at a time, so that each rule is about the key that breaks it.
        let possible = Sizes {
            memory_mib: planning::DEFAULT_MEMORY_MIB,
            vcpus: 1,
            link_ports: planning::DEFAULT_LINK_PORTS,
            devices: &[],
            wayland_memory_mib: planning::DEFAULT_WAYLAND_MEMORY_MIB,
        };
        let keys = [
            ("memory", settings.memory.map(|memory_mib| Sizes { memory_mib, ..possible })),
            ("vcpus", settings.vcpus.map(|vcpus| Sizes { vcpus, ..possible })),
            ("link-ports", settings.link_ports.map(|link_ports| Sizes { link_ports, ..possible })),
            ("devices", Some(Sizes { devices: &settings.devices, ..possible })),
            (
                "wayland-memory",
                settings.wayland_memory.map(|wayland_memory_mib| Sizes { wayland_memory_mib, ..possible }),
            ),
        ];
        for (key, sizes) in keys.into_iter().filter_map(|(key, sizes)| Some((key, sizes?))) {
            for problem in planning::check_sizes(&sizes, &config.path).into_sorted() {
                let at = table.iter().chain([&key]).map(|&part| part.to_owned()).collect();
                let names_it = problem.cause.contains(key);
                let sets = if names_it { String::new() } else { format!(" ({key})") };
                let cause = format!("{shown} {}{sets}", problem.cause);
                mistakes.push(Mistake { at, other: None, cause, remedy: problem.remedy });
            }
        }
    }
    mistakes
}

struct Check<'a> {
    config: &'a Config,
    tables: &'a [Table],
    mistakes: Vec<Mistake>,
}

fn keys(path: &[&str]) -> Vec<String> {
    path.iter().map(|&key| key.to_owned()).collect()
}

impl Check<'_> {
    fn error(&mut self, at: &[&str], cause: impl Into<String>, remedy: impl Into<String>) {
        let (cause, remedy) = (cause.into(), remedy.into());
        self.mistakes.push(Mistake { at: keys(at), other: None, cause, remedy });
    }

    /// Like [`Self::error`], of two values that contradict each other.
    fn conflict(&mut self, at: &[&str], other: &[&str], cause: String, remedy: &str) {
        let remedy = remedy.to_owned();
        self.mistakes.push(Mistake { at: keys(at), other: Some(keys(other)), cause, remedy });
    }

    /// A source is at a path, or is a partition.
    fn place(&mut self, index: usize, source: &SourceConfig) {
        let (name, index) = (&source.name, index.to_string());
        let at = |key| ["source", index.as_str(), key];
        match (source.path(), &source.partuuid) {
            (Some(path), None) if !path.is_absolute() => self.error(
                &at("path"),
                format!("the path of the source {name} is not absolute"),
                "write the path from / on",
            ),
            (Some(_), None) => {}
            (None, Some(_)) if source.kind == SourceKind::UserPartition => {}
            (None, Some(_)) => self.error(
                &at("partuuid"),
                format!("the source {name} has a partuuid, but is not a user-partition"),
                "mount the partition yourself and set path",
            ),
            (None, None) => self.error(
                &["source", &index],
                format!("the source {name} has neither a path nor a partuuid"),
                "set path, or partuuid for a partition that appears by itself",
            ),
            (Some(_), Some(_)) => self.conflict(
                &at("partuuid"),
                &at("path"),
                format!("the source {name} has both a path and a partuuid"),
                "keep path if you mount it yourself, partuuid if it should be mounted when it appears",
            ),
        }
        if *name == SourceName::configuration() {
            self.error(
                &at("name"),
                format!("the source name {name} is reserved for VMs that have a runner"),
                "rename the source",
            );
        }
    }

    /// No two sources have one name or one place.
    fn differs(&mut self, index: usize, source: &SourceConfig, earlier: &[SourceConfig]) {
        let (name, index) = (&source.name, index.to_string());
        let same_place = |other: &SourceConfig| {
            other.vm_directories() == source.vm_directories()
                || (other.partuuid.is_some() && other.partuuid == source.partuuid)
        };
        let find = |is: &dyn Fn(&SourceConfig) -> bool| {
            earlier.iter().enumerate().find(|(_, other)| is(other)).map(|(other, it)| (other.to_string(), it))
        };
        if let Some((other, _)) = find(&|other| other.name == *name) {
            let (at, other) = (["source", &index, "name"], ["source", &other, "name"]);
            self.conflict(&at, &other, format!("two sources have the name {name}"), "rename one of them");
        }
        if let Some((place, other)) = find(&same_place).filter(|(_, other)| other.name != *name) {
            let key = |source: &SourceConfig| if source.partuuid.is_some() { "partuuid" } else { "path" };
            let cause = format!("the sources {} and {name} are the same place", other.name);
            let (at, other) = (["source", &index, key(source)], ["source", &place, key(other)]);
            self.conflict(&at, &other, cause, "remove one of them");
        }
    }

    fn values(&mut self) {
        let Config { defaults, uids: UidRange { first, last }, tools, .. } = self.config;
        if !may_be_a_vms(*first) || !may_be_a_vms(*last) || last < first {
            self.error(
                &["uids"],
                format!("the user ids {first} to {last} are not a valid range for VMs"),
                format!("choose an unused range from {MIN_UID} on"),
            );
        }
        for (tool, program) in tools.iter().filter(|(_, program)| !program.is_absolute()) {
            self.error(
                &["tools", tool.as_str()],
                format!("the path of {tool}, {}, is not absolute", program.display()),
                "write the path from / on",
            );
        }
        if defaults.runner.is_some() || defaults.uid.is_some() {
            self.error(
                &["defaults", if defaults.uid.is_some() { "uid" } else { "runner" }],
                "[defaults] sets runner or uid, which can only belong to one VM",
                "set it in the table of that VM",
            );
        }
        if !defaults.links.is_empty() {
            let remedy = "declare each in the table of its VM";
            self.error(&["defaults", "links"], "[defaults] declares links", remedy);
        }
        if !defaults.devices.is_empty() {
            let remedy = "list each in the table of its VM";
            self.error(&["defaults", "devices"], "[defaults] lists devices", remedy);
        }
        if !defaults.shares.is_empty() {
            let remedy = "set them in the table of the VM that has that tag";
            self.error(&["defaults", "shares"], "[defaults] sets shares", remedy);
        }
        if defaults.uplink.is_some() || !defaults.ports.is_empty() {
            let key = if defaults.uplink.is_some() { "uplink" } else { "ports" };
            let remedy = "set them in the table of each VM that has them";
            self.error(&["defaults", key], "[defaults] sets uplink or ports", remedy);
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
                &["vm", key],
                format!("[vm.\"{key}\"] names no VM of a source{why}"),
                "write [vm.\"SOURCE/NAME\"]; NAME alone is enough where there is only one source",
            );
        }
    }

    fn same_vm(&mut self, Table { key, id, .. }: &Table, earlier: &[Table]) {
        if let Some(id) = id
            && let Some(other) = earlier.iter().find(|other| other.id.as_ref() == Some(id))
        {
            self.conflict(
                &["vm", key],
                &["vm", &other.key],
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
                    &["vm", key],
                    format!("[vm.\"{key}\"] has no runner"),
                    "set runner = \"PATH\", or name the VM's source",
                );
            }
            return;
        };
        if id.is_some() && !of_runners {
            self.error(
                &["vm", key, "runner"],
                format!("[vm.\"{key}\"] sets runner, but is a VM of a source"),
                "write [vm.NAME]: a VM that has a runner belongs to no source",
            );
        }
        if !runner.is_absolute() {
            self.error(
                &["vm", key, "runner"],
                format!("the runner of [vm.\"{key}\"] is not an absolute path"),
                "write the path from / on",
            );
        }
        for setting in settings.of_a_definition() {
            self.error(
                &["vm", key, setting],
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
                &["vm", key, "autostart"],
                format!("[vm.\"{key}\"] sets autostart, but source '{name}' does not allow it"),
                format!("set autostart = true for the [[source]] {name}, or remove it here"),
            );
        }
    }

    /// What the cluster starts, nothing else does.
    fn cluster(&mut self) {
        let Self { config, tables, .. } = *self;
        let of_defaults = |key: &str| keys(&["defaults", key]);
        self.starts_alone("[defaults] sets", &config.defaults, true, &of_defaults);
        for (index, source) in config.sources.iter().enumerate().filter(|(_, it)| it.cluster.is_some()) {
            // Those of its VMs that have no table.
            let settings = config.completed(&source.name, &Settings::default());
            let at = |key: &str| match key {
                "cluster" => keys(&["source", &index.to_string(), key]),
                _ => of_defaults(key),
            };
            let who = format!("the source {} has by [defaults]", source.name);
            self.starts_alone(&who, &settings, source.may_autostart(), &at);
        }
        for Table { key: table, id, settings } in tables {
            let Some(id) = id else { continue };
            let own = [
                ("cluster", settings.cluster),
                ("autostart", settings.autostart),
                ("restart-if-changed", settings.restart_if_changed),
            ];
            if own.iter().all(|(_, value)| value.is_none()) {
                continue;
            }
            let mut sources = config.sources.iter();
            let index = sources.position(|source| source.name == id.source && source.cluster.is_some());
            let at = |key: &str| match index {
                _ if own.contains(&(key, Some(true))) => keys(&["vm", table, key]),
                Some(index) if key == "cluster" => keys(&["source", &index.to_string(), key]),
                _ => of_defaults(key),
            };
            let may_autostart = config.source(&id.source).is_none_or(SourceConfig::may_autostart);
            let settings = config.completed(&id.source, settings);
            self.starts_alone(&format!("[vm.\"{table}\"] has"), &settings, may_autostart, &at);
        }
    }

    /// `at` is where a key is set.
    fn starts_alone(
        &mut self,
        who: &str,
        settings: &Settings,
        may_autostart: bool,
        at: &dyn Fn(&str) -> Vec<String>,
    ) {
        let keys = [
            ("autostart", settings.autostart.filter(|_| may_autostart)),
            ("restart-if-changed", settings.restart_if_changed),
        ];
        let set =
            keys.into_iter().filter(|(_, value)| *value == Some(true) && settings.cluster == Some(true));
        self.mistakes.extend(set.map(|(key, _)| Mistake {
            at: at(key),
            other: Some(at("cluster")),
            cause: format!("{who} {key} beside cluster: the cluster alone starts and stops such VMs"),
            remedy: format!("remove {key}, or set it or cluster to false"),
        }));
    }

    fn links(&mut self) {
        let mut links: BTreeMap<LinkId, (&str, &str)> = BTreeMap::new();
        for Table { key, settings, .. } in self.tables {
            for (provider, id) in &settings.links {
                if let Some((other, others)) = links.insert(*id, (key, provider.as_str())) {
                    self.conflict(
                        &["vm", key, "links", provider.as_str()],
                        &["vm", other, "links", others],
                        format!("[vm.\"{other}\"] and [vm.\"{key}\"] both declare the link id {id}"),
                        "change one of them",
                    );
                }
            }
        }
    }

    /// A device belongs to one VM, even while that VM does not run.
    fn devices(&mut self) {
        let mut devices: BTreeMap<PciAddress, (&str, String)> = BTreeMap::new();
        for Table { key, settings, .. } in self.tables {
            for (index, device) in settings.devices.iter().enumerate() {
                let index = index.to_string();
                let Some((other, others)) = devices.insert(*device, (key, index.clone())) else { continue };
                let (cause, remedy) = if other == key {
                    (format!("[vm.\"{key}\"] lists the device {device} twice"), "remove one of them")
                } else {
                    let cause = format!("[vm.\"{other}\"] and [vm.\"{key}\"] both list the device {device}");
                    (cause, "give it to one of them")
                };
                self.conflict(
                    &["vm", key, "devices", &index],
                    &["vm", other, "devices", &others],
                    cause,
                    remedy,
                );
            }
        }
    }

    /// At a port of the host one VM listens, also while it does not run.
    fn ports(&mut self) {
        let mut ports: Vec<(PortForward, &str, String)> = Vec::new();
        for Table { key, settings, .. } in self.tables {
            if !settings.ports.is_empty() && settings.uplink != Some(true) {
                self.error(
                    &["vm", key, "ports"],
                    format!("[vm.\"{key}\"] lists ports and has no uplink, which would forward them"),
                    "set uplink = true beside them, or remove them",
                );
            }
            for (index, port) in settings.ports.iter().enumerate() {
                let index = index.to_string();
                if let Some((other, of, others)) = ports.iter().find(|(other, ..)| other.collides(port)) {
                    let cause = if of == key {
                        format!("[vm.\"{key}\"] forwards one port of the host twice: {other} and {port}")
                    } else {
                        let tables = format!("[vm.\"{of}\"] and [vm.\"{key}\"]");
                        format!("{tables} forward the same port of the host: {other} and {port}")
                    };
                    let remedy = "choose another port or address of the host for one of them";
                    let (of, others) = (of.to_owned(), others.clone());
                    self.conflict(
                        &["vm", key, "ports", &index],
                        &["vm", of, "ports", &others],
                        cause,
                        remedy,
                    );
                }
                ports.push((*port, key, index));
            }
        }
    }

    fn uids(&mut self) {
        let mut uids: BTreeMap<u32, &str> = BTreeMap::new();
        for (key, uid) in self.tables.iter().filter_map(|table| Some((&table.key, table.settings.uid?))) {
            if !may_be_a_vms(uid) {
                self.error(
                    &["vm", key, "uid"],
                    format!("[vm.\"{key}\"] has the user id {uid}, which no VM can have"),
                    format!("choose an unused id from {MIN_UID} to {MAX_UID}"),
                );
            }
            if let Some(other) = uids.insert(uid, key) {
                self.conflict(
                    &["vm", key, "uid"],
                    &["vm", other, "uid"],
                    format!("[vm.\"{other}\"] and [vm.\"{key}\"] both have the user id {uid}"),
                    "change one of them",
                );
            }
        }
    }
}
