// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The configuration: what the host's administrator decides.
//!
//! It is one TOML file, `/etc/microvm-spectrum/config.toml`: the sources of VMs
//! in their order, and settings, which are never part of a VM directory.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::boundary::AllowedPrefix;
use crate::link::LinkId;
use crate::manifest::{Accelerator, HypervisorName};
use crate::name::{SourceName, VmId, VmName};
use crate::pci::PciAddress;
use crate::problem::{Problem, Problems};
use crate::tool::Tool;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/microvm-spectrum/config.toml";

/// The user ids that VMs get when nobody chooses.
///
/// Above the ids that systemd gives to services with a dynamic user, and below
/// those that distributions give to users for their containers
/// (systemd's "Users, Groups, UIDs and GIDs"; `SUB_UID_MIN` in `login.defs(5)`).
pub const DEFAULT_UIDS: RangeInclusive<u32> = 70_000..=89_999;
/// The smallest user id that a VM may have: no system or dynamic user's.
const MIN_UID: u32 = 65_536;
/// The largest; those beyond mean something to the kernel or to systemd.
const MAX_UID: u32 = ((u16::MAX as u32) << 16) - 1;

/// Whether a VM may have this user id at all: never root's, for one.
pub fn may_be_a_vms(uid: u32) -> bool {
    (MIN_UID..=MAX_UID).contains(&uid)
}

/// What kind of place a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A directory of VM directories that comes with the system.
    Builtin,
    /// A partition with VM directories in its `svc/data`.
    UserPartition,
}

/// A place where VM directories live.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What kind of place it is.
    pub kind: SourceKind,
    /// Its name.
    pub name: SourceName,
    /// Where it is on this host, an absolute path.
    pub path: PathBuf,
    /// Where else links of its VM directories may lead.
    #[serde(default, deserialize_with = "allowed")]
    pub allow: Vec<AllowedPrefix>,
}

/// What executes a guest's instructions, as an administrator chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM.
    Kvm,
    /// QEMU's TCG.
    Tcg,
    /// KVM when a short probe shows that it works, else TCG.
    Auto,
}

impl AcceleratorChoice {
    /// The accelerator, if it was chosen.
    pub fn chosen(self) -> Option<Accelerator> {
        match self {
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Tcg => Some(Accelerator::Tcg),
            Self::Auto => None,
        }
    }
}

/// Settings of one VM, or the defaults of all; what is not set is taken from
/// the defaults, and then from the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The hypervisor that runs it.
    pub hypervisor: Option<HypervisorName>,
    /// The guest's memory, in MiB.
    pub memory: Option<u32>,
    /// The number of virtual processors.
    pub vcpus: Option<u16>,
    /// What executes the guest's instructions (QEMU only).
    pub accel: Option<AcceleratorChoice>,
    /// Whether it starts with the host.
    pub autostart: Option<bool>,
    /// For how many clients it can provide networks.
    #[serde(rename = "link-ports")]
    pub link_ports: Option<u8>,
    /// The ids of its links, by provider; the others are derived.
    #[serde(default)]
    pub links: BTreeMap<VmName, LinkId>,
    /// The host's PCI devices that it gets.
    #[serde(default)]
    pub devices: Vec<PciAddress>,
}

impl Settings {
    /// These settings, with those that are not set taken from `defaults`.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            hypervisor: self.hypervisor.or(defaults.hypervisor),
            memory: self.memory.or(defaults.memory),
            vcpus: self.vcpus.or(defaults.vcpus),
            accel: self.accel.or(defaults.accel),
            autostart: self.autostart.or(defaults.autostart),
            link_ports: self.link_ports.or(defaults.link_ports),
            links: self.links.clone(),
            devices: self.devices.clone(),
        }
    }
}

/// The user ids that VMs get.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UidRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl Default for UidRange {
    fn default() -> Self {
        Self { first: *DEFAULT_UIDS.start(), last: *DEFAULT_UIDS.end() }
    }
}

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The sources, in their order.
    #[serde(default, rename = "source")]
    pub sources: Vec<SourceConfig>,
    /// The settings of VMs that say nothing else.
    #[serde(default)]
    pub defaults: Settings,
    /// The user ids that VMs get.
    #[serde(default)]
    pub uids: UidRange,
    /// Where programs are, instead of in PATH.
    #[serde(default)]
    pub tools: BTreeMap<Tool, PathBuf>,
    /// Settings by `SOURCE/NAME`, or by NAME where there is only one source.
    #[serde(default)]
    vm: BTreeMap<String, Settings>,
}

fn allowed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<AllowedPrefix>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

impl Config {
    /// Reads the configuration at `path`.
    ///
    /// # Errors
    /// What is wrong with it, with line and column.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let one = |problem: Problem| {
            let mut problems = Problems::default();
            problems.push(problem);
            problems
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "create it; microvm-spectrum-config(5) has an example",
                _ => "make it a file that can be read",
            };
            one(Problem::error(path, format!("cannot be read: {error}"), remedy))
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let (line, column) = error.span().map_or((1, 1), |span| position(&text, span.start));
            let place = format!("{}:{line}:{column}", path.display());
            one(Problem::error(
                place,
                error.message(),
                "correct it; microvm-spectrum-config(5) has every key",
            ))
        })?;
        let problems = config.check(path);
        if problems.has_errors() { Err(problems) } else { Ok(config) }
    }

    fn check(&self, path: &Path) -> Problems {
        let mut problems = Problems::default();
        for (index, source) in self.sources.iter().enumerate() {
            if !source.path.is_absolute() {
                problems.error(
                    path,
                    format!("the path of the source {} is not absolute", source.name),
                    "write it from / on",
                );
            }
            if self.sources.iter().take(index).any(|other| other.name == source.name) {
                problems.error(path, format!("two sources have the name {}", source.name), "rename one");
            }
        }
        let UidRange { first, last } = self.uids;
        if !may_be_a_vms(first) || !may_be_a_vms(last) || last < first {
            problems.error(
                path,
                format!("the user ids {first} to {last} are no range that VMs can have"),
                format!("choose a range that nobody else uses, from {MIN_UID} on"),
            );
        }
        for key in self.vm.keys() {
            let known = match key.parse::<VmId>() {
                Ok(id) => self.sources.iter().any(|source| source.name == id.source),
                Err(_) if key.contains('/') => false,
                Err(_) => VmName::new(key).is_ok() && self.sources.len() <= 1,
            };
            if known
                && let [source] = self.sources.as_slice()
                && self.vm.contains_key(&format!("{}/{key}", source.name))
            {
                problems.error(
                    path,
                    format!("[vm.\"{key}\"] and [vm.\"{}/{key}\"] name the same VM", source.name),
                    "write one table for it",
                );
            }
            if !known {
                problems.error(
                    path,
                    format!("[vm.\"{key}\"] names no VM of a source"),
                    "write [vm.\"SOURCE/NAME\"]; NAME alone is enough where there is only one source",
                );
            }
        }
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
        self.check_devices(path, &mut problems);
        if !self.defaults.links.is_empty() {
            problems.error(path, "[defaults] declares links", "declare each in the table of its VM");
        }
        for (tool, program) in self.tools.iter().filter(|(_, program)| !program.is_absolute()) {
            problems.error(
                path,
                format!("the path of {tool}, {}, is not absolute", program.display()),
                "write it from / on",
            );
        }
        problems
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

    /// All link ids that are declared, with the links' client and provider.
    pub fn declared_links(&self) -> impl Iterator<Item = (VmId, &VmName, LinkId)> {
        let id = |key: &str| {
            let only =
                || Some(VmId { source: self.sources.first()?.name.clone(), name: VmName::new(key).ok()? });
            key.parse().ok().or_else(only)
        };
        let tables = self.vm.iter().filter_map(move |(key, vm)| Some((id(key)?, vm)));
        tables.flat_map(|(client, vm)| vm.links.iter().map(move |(p, id)| (client.clone(), p, *id)))
    }

    /// The settings of one VM, with the defaults of the configuration.
    pub fn settings(&self, id: &VmId) -> Settings {
        let own = self.vm.get(&id.to_string());
        let plain = || (self.sources.len() <= 1).then(|| self.vm.get(id.name.as_str())).flatten();
        own.or_else(plain).map_or_else(|| self.defaults.clone(), |own| own.or(&self.defaults))
    }
}

/// Line and column of a byte, both from 1 on; a column is a character.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|problems| {
            let text: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
            text.join("\n").replace(&format!("{}/", dir.path().display()), "")
        })
    }

    const SOURCE: &str = "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '/srv/P'\n";

    #[test]
    fn everything_that_can_stand_in_it() {
        let text = format!(
            "{SOURCE}allow = ['/usr/img=/srv/img']\n[defaults]\nmemory = 512\nhypervisor = 'qemu'\n\
             [uids]\nfirst = 80000\nlast = 80010\n[tools]\nvirtiofsd = '/opt/virtiofsd'\n\
             [vm.\"user/a\"]\nautostart = true\nvcpus = 2\naccel = 'tcg'\n[vm.b]\nmemory = 64\n"
        );
        let config = read(&text).unwrap();
        let id = |text: &str| text.parse::<VmId>().unwrap();
        let a = config.settings(&id("user/a"));
        assert_eq!((a.memory, a.vcpus, a.autostart), (Some(512), Some(2), Some(true)));
        assert_eq!(config.settings(&id("user/b")).memory, Some(64));
        assert_eq!(config.settings(&id("user/c")), config.defaults);
        assert_eq!(config.sources[0].allow[0].directory, Path::new("/srv/img"));
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn a_device_is_one_vms_alone() {
        let table = |name: &str, devices: &str| format!("[vm.{name}]\ndevices = [{devices}]\n");
        let config = read(&format!("{SOURCE}{}", table("a", "'0000:01:00.0', '0000:01:00.1'"))).unwrap();
        let devices = |name: &str| {
            let devices = config.settings(&format!("user/{name}").parse().unwrap()).devices;
            devices.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(devices("a"), ["0000:01:00.0", "0000:01:00.1"]);
        assert!(devices("b").is_empty());
        let told = read(&format!(
            "{SOURCE}[defaults]\ndevices = ['0000:03:00.0']\n{}{}",
            table("a", "'0000:01:00.0', '0000:02:00.0', '0000:02:00.0'"),
            table("b", "'0000:01:00.0'")
        ));
        let told = told.unwrap_err();
        for part in [
            "[vm.\"a\"] and [vm.\"b\"] both list the device 0000:01:00.0",
            "[vm.\"a\"] lists the device 0000:02:00.0 twice",
            "[defaults] lists devices",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let told = read(&format!("{SOURCE}{}", table("a", "'01:00.0'"))).unwrap_err();
        assert!(told.starts_with("error: config.toml:6:11: "), "{told}");
        assert!(
            told.contains("'01:00.0' is not the full form of a PCI address: write 0000:01:00.0"),
            "{told}"
        );
    }

    #[test]
    fn mistakes_are_told_with_line_and_column() {
        for (text, place, cause) in [
            ("[defaults]\nmemroy = 5\n", "config.toml:2:1", "unknown field `memroy`"),
            ("[defaults]\nmemory = 'x'\n", "config.toml:2:10", "invalid type"),
            ("[defaults\n", "config.toml:1:10", ""),
            ("[[source]]\nkind = 'disk'\n", "config.toml:2:8", "unknown variant `disk`"),
            (&SOURCE.replace("'user'", "'a b'"), "config.toml:3:8", "cannot contain the character ' '"),
            (&format!("{SOURCE}allow = ['x']\n"), "config.toml:5:9", "expected PREFIX"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.starts_with(&format!("error: {place}")) && told.contains(cause), "{text}: {told}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_at_once() {
        let text = format!(
            "{SOURCE}{}[uids]\nfirst = 1000\nlast = 2000\n[tools]\nip = 'ip'\n[vm.'a']\n[vm.'other/x']\n[vm.'a b']\n",
            SOURCE.replace("/srv/P", "P")
        );
        let told = read(&text).unwrap_err();
        for part in [
            "two sources have the name user",
            "the path of the source user is not absolute",
            "the user ids 1000 to 2000",
            "the path of ip, ip, is not absolute",
            "[vm.\"a\"]",
            "[vm.\"other/x\"]",
            "[vm.\"a b\"]",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
