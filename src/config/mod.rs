// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The configuration: what the host's administrator decides.
//!
//! One TOML file, `/etc/microvm-spectrum/config.toml`, names the sources of VMs in
//! their order, and has the settings, which are never part of a VM directory.

mod check;
pub mod edit;
pub mod location;
mod parse;
mod settings;
mod source;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use settings::{AcceleratorChoice, CompositorChoice, Settings, ShareSettings};
pub use source::{PARTITIONS, PartUuid, SourceConfig, SourceKind};

use crate::base::name::{SourceName, VmId, VmName};
use crate::base::problem::{Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::link::id::LinkId;

/// Where the configuration is by default.
pub const DEFAULT_PATH: &str = "/etc/microvm-spectrum/config.toml";

/// The user ids that VMs get by default.
///
/// Above the ids that systemd gives to services with a dynamic user, and below
/// those that distributions give to users for their containers
/// (systemd's "Users, Groups, UIDs and GIDs"; `SUB_UID_MIN` in `login.defs(5)`).
pub const DEFAULT_UIDS: RangeInclusive<u32> = 70_000..=89_999;
/// The smallest user id that a VM may have: above those of system and dynamic users.
const MIN_UID: u32 = 65_536;
/// The largest; those above have a meaning for the kernel or systemd.
const MAX_UID: u32 = ((u16::MAX as u32) << 16) - 1;

/// Whether a VM may have this user id; never that of root, for example.
pub fn may_be_a_vms(uid: u32) -> bool {
    (MIN_UID..=MAX_UID).contains(&uid)
}

/// The user ids that VMs get.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UidRange {
    /// The first.
    #[serde(deserialize_with = "settings::uid")]
    pub first: u32,
    /// The last.
    #[serde(deserialize_with = "settings::uid")]
    pub last: u32,
}

impl Default for UidRange {
    fn default() -> Self {
        Self { first: *DEFAULT_UIDS.start(), last: *DEFAULT_UIDS.end() }
    }
}

/// Why there is no configuration: all its problems.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Refused(#[from] pub Problems);

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The sources: the built-in ones, then the others, each in their order.
    #[serde(default, rename = "source")]
    pub sources: Vec<SourceConfig>,
    /// The settings of VMs that do not set them themselves.
    #[serde(default)]
    pub defaults: Settings,
    /// The user ids that VMs get.
    #[serde(default)]
    pub uids: UidRange,
    /// Where programs are that should not be looked for in PATH.
    #[serde(default, deserialize_with = "tool::read_paths")]
    pub tools: BTreeMap<Tool, PathBuf>,
    /// Whether `sync` puts packages into the host's Nix store.
    #[serde(default, rename = "nix-store")]
    pub nix_store: bool,
    /// The tables of VMs by their keys, which are `SOURCE/NAME`, or NAME where there
    /// is only one source; empty once they are in `vms`.
    #[serde(default, rename = "vm")]
    tables: BTreeMap<String, Settings>,
    /// The tables of VMs.
    #[serde(skip)]
    vms: BTreeMap<VmId, Table>,
    /// The file that it was read from.
    #[serde(skip)]
    pub path: PathBuf,
}

/// The settings of one VM, as the administrator wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    key: String,
    /// The VM that the key names, if it names one.
    id: Option<VmId>,
    settings: Settings,
}

impl Config {
    /// Reads the configuration at `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it, a value with its line and column; an error
    /// of the host when the file exists and cannot be read.
    pub fn read(path: &Path) -> Result<Self, Refused> {
        Self::with_text(path).map(|(config, _)| config)
    }

    /// Checks the configuration at `path`, also for settings that no VM can have; `sync` reports
    /// these for the VMs that have them.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn check(path: &Path) -> Result<(), Refused> {
        let (config, text) = Self::with_text(path)?;
        Ok(parse::placed(path, &text, check::impossible(&config)).or(())?)
    }

    fn with_text(path: &Path) -> Result<(Self, String), Refused> {
        let text = std::fs::read_to_string(path).map_err(|error| -> Problems {
            let cause = format!("cannot be read: {error}");
            match error.kind() {
                io::ErrorKind::NotFound => {
                    Problem::error(path, cause, "create it; microvm-spectrum-config(5) has an example")
                }
                io::ErrorKind::InvalidData => Problem::error(path, cause, "write it as UTF-8 text"),
                _ => Problem::host(path, cause, "check its permissions and the file system"),
            }
            .into()
        })?;
        Ok((Self::of_text(path, &text)?, text))
    }

    /// Like [`Self::read`], for the text that the file at `path` has, or will have.
    fn of_text(path: &Path, text: &str) -> Result<Self, Refused> {
        let mut config: Self = parse::parse(path, text)?;
        path.clone_into(&mut config.path);
        let tables: Vec<_> = std::mem::take(&mut config.tables)
            .into_iter()
            .map(|(key, settings)| Table { id: config.id_of(&key, &settings), key, settings })
            .collect();
        parse::placed(path, text, check::check(&config, &tables)).or(())?;
        // Stable: those of a kind stay in their order.
        config.sources.sort_by_key(|source| source.kind != SourceKind::Builtin);
        config.vms = tables.into_iter().filter_map(|table| Some((table.id.clone()?, table))).collect();
        Ok(config)
    }

    /// The VM that the key of a table names.
    fn id_of(&self, key: &str, settings: &Settings) -> Option<VmId> {
        if key.contains('/') {
            return key.parse().ok();
        }
        let name = VmName::new(key).ok()?;
        let source = match self.sources.as_slice() {
            _ if settings.runner.is_some() => SourceName::configuration(),
            [source] => source.name.clone(),
            _ => return None,
        };
        Some(VmId { source, name })
    }

    /// The source with this name, if there is one.
    pub fn source(&self, name: &SourceName) -> Option<&SourceConfig> {
        self.sources.iter().find(|source| source.name == *name)
    }

    fn tables(&self) -> impl Iterator<Item = (&VmId, &Settings)> {
        self.vms.iter().map(|(id, table)| (id, &table.settings))
    }

    /// All declared link ids, each with the link's client and provider.
    pub fn declared_links(&self) -> impl Iterator<Item = (VmId, &VmName, LinkId)> {
        self.tables().flat_map(|(client, vm)| vm.links.iter().map(|(p, id)| (client.clone(), p, *id)))
    }

    /// All declared user ids, each with its VM.
    pub fn declared_uids(&self) -> impl Iterator<Item = (VmId, u32)> {
        self.tables().filter_map(|(id, vm)| Some((id.clone(), vm.uid?)))
    }

    /// The VMs that run from a package that was built elsewhere, and that package.
    pub fn runners(&self) -> impl Iterator<Item = (VmId, &Path)> {
        self.tables().filter_map(|(id, vm)| Some((id.clone(), vm.runner.as_deref()?)))
    }

    /// The VMs that have settings of their own, with the keys of their tables.
    pub fn named(&self) -> impl Iterator<Item = (&str, VmId)> {
        self.vms.iter().map(|(id, table)| (table.key.as_str(), id.clone()))
    }

    /// The settings of one VM, completed from its source and `[defaults]`.
    pub fn settings(&self, id: &VmId) -> Settings {
        let none = Settings::default();
        self.completed(&id.source, self.vms.get(id).map_or(&none, |table| &table.settings))
    }

    /// The settings of a VM of a source, completed from that and from `[defaults]`.
    fn completed(&self, source: &SourceName, own: &Settings) -> Settings {
        let of_source = self.source(source).map(|source| Settings {
            wayland_user: source.wayland_user.clone(),
            cluster: source.cluster,
            ..Settings::default()
        });
        own.or(&of_source.unwrap_or_default()).or(&self.defaults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|Refused(problems)| {
            let text: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
            text.join("\n").replace(&format!("{}/", dir.path().display()), "")
        })
    }

    const SOURCE: &str = "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '/srv/P'\n";

    #[test]
    fn everything_that_it_can_hold() {
        let text = format!(
            "{SOURCE}autostart = true\nallow = ['/usr/img=/srv/img']\n[defaults]\nmemory = 512\nhypervisor = 'qemu'\n\
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
        let empty = read("").unwrap();
        assert_eq!(empty.sources, []);
        assert_eq!(empty, Config { path: empty.path.clone(), ..Config::default() });
    }

    #[test]
    fn whose_session_shows_windows_is_said_of_a_vm_a_source_or_all() {
        let user = |config: &Config, vm: &str| config.settings(&vm.parse().unwrap()).wayland_user;
        let own = "[vm.a]\nwayland-user = 'alice'\nwayland = 'without-security-context'\n";
        let config = read(&format!(
            "{SOURCE}wayland-user = 'bob'\n[defaults]\nwayland-user = 'carol'\n{own}[vm.b]\nvcpus = 2\n\
             [vm.'configuration/nixed']\nrunner = '/r'\nwayland = 'security-context'\n"
        ))
        .unwrap_or_else(|printed| panic!("{printed}"));
        assert_eq!(user(&config, "user/a").as_deref(), Some("alice"));
        assert_eq!(user(&config, "user/b").as_deref(), Some("bob"));
        assert_eq!(user(&config, "user/c").as_deref(), Some("bob"));
        assert_eq!(user(&config, "configuration/nixed").as_deref(), Some("carol"));
        let a = config.settings(&"user/a".parse().unwrap());
        assert_eq!(a.wayland, Some(CompositorChoice::WithoutSecurityContext));
        assert_eq!(config.settings(&"user/b".parse().unwrap()).wayland, None);
        let printed = read(&format!("{SOURCE}[vm.a]\nwayland = true\n")).unwrap_err();
        assert!(printed.starts_with("error: config.toml:6:11: vm.a.wayland: "), "{printed}");
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
        let printed = read(&format!(
            "{SOURCE}[defaults]\ndevices = ['0000:03:00.0']\n{}{}",
            table("a", "'0000:01:00.0', '0000:02:00.0', '0000:02:00.0'"),
            table("b", "'0000:01:00.0'")
        ));
        let printed = printed.unwrap_err();
        for part in [
            "[vm.\"a\"] and [vm.\"b\"] both list the device 0000:01:00.0",
            "[vm.\"a\"] lists the device 0000:02:00.0 twice",
            "[defaults] lists devices",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        let printed = read(&format!("{SOURCE}{}", table("a", "'01:00.0'"))).unwrap_err();
        assert!(printed.starts_with("error: config.toml:6:11: "), "{printed}");
        assert!(
            printed.contains("'01:00.0' is not the full form of a PCI address: write 0000:01:00.0"),
            "{printed}"
        );
    }

    #[test]
    fn a_port_of_the_host_is_one_vms_alone_and_needs_an_uplink() {
        let table = |name: &str, rest: &str| format!("[vm.{name}]\nuplink = true\n{rest}\n");
        let config =
            read(&format!("{SOURCE}{}", table("a", "ports = ['127.0.0.1:80:80', '0.0.0.0:80:80/udp']")));
        let a = config.unwrap().settings(&"user/a".parse().unwrap());
        assert_eq!((a.uplink, a.ports.len()), (Some(true), 2));
        let printed = read(&format!(
            "{SOURCE}[defaults]\nuplink = true\n{}{}[vm.c]\nports = ['127.0.0.1:9:9']\n",
            table("a", "ports = ['127.0.0.1:80:80', '127.0.0.1:81:80', '127.0.0.1:81:82']"),
            table("b", "ports = ['0.0.0.0:80:8080', '127.0.0.2:81:80', '127.0.0.1:80:80/udp']"),
        ));
        let printed = printed.unwrap_err();
        for part in [
            "[vm.\"a\"] and [vm.\"b\"] forward the same port of the host: 127.0.0.1:80:80 and 0.0.0.0:80:8080",
            "[vm.\"a\"] forwards one port of the host twice: 127.0.0.1:81:80 and 127.0.0.1:81:82",
            "[vm.\"c\"] lists ports and has no uplink",
            "[defaults] sets uplink or ports",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        assert_eq!(printed.matches("error:").count(), 4, "{printed}");
        let printed = read(&format!("{SOURCE}{}", table("a", "ports = ['8080:80']"))).unwrap_err();
        assert!(
            printed.starts_with("error: config.toml:7:9: vm.a.ports: '8080:80' is not ADDRESS:"),
            "{printed}"
        );
    }

    #[test]
    fn mistakes_have_a_line_and_a_column() {
        for (text, place, cause) in [
            ("[defaults]\nmemroy = 5\n", "config.toml:2:1", "unknown field `memroy`"),
            ("[defaults]\nmemory = 'x'\n", "config.toml:2:10", "invalid type"),
            ("[defaults\n", "config.toml:1:10", ""),
            ("[[source]]\nname = 'x'\nkind = 'disk'\n", "config.toml:3:8", "unknown variant `disk`"),
            (&SOURCE.replace("'user'", "'a b'"), "config.toml:3:8", "cannot contain the character ' '"),
            (&format!("{SOURCE}allow = ['x']\n"), "config.toml:5:9", "expected PREFIX"),
        ] {
            let printed = read(text).unwrap_err();
            assert!(
                printed.starts_with(&format!("error: {place}")) && printed.contains(cause),
                "{text}: {printed}"
            );
        }
    }

    #[test]
    fn values_out_of_range_and_conflicts_have_places_too() {
        let other = SOURCE.replace("'user'", "'other'").replace("/srv/P", "/srv/Q");
        let builtin = "[[source]]\nkind = 'builtin'\nname = 'other'\npath = 'vms'\n";
        let places = |text: &str| {
            let printed = read(text).unwrap_err();
            let lines = printed.lines().filter(|line| line.starts_with("error: "));
            lines.map(|line| line.replace("error: config.toml:", "")).collect::<Vec<_>>()
        };
        // Built-in sources are read first, and the places are those of the file.
        assert_eq!(
            places(&format!("{SOURCE}{}{builtin}", other.replace("/srv/Q", "/srv/P"))),
            [
                "11:8: two sources have the name other (see line 7, too)",
                "12:8: the path of the source other is not absolute",
                "8:8: the sources user and other are the same place (see line 4, too)",
            ]
            .map(str::to_owned)
        );
        let tables = "[vm.'user/b']\nuid = 70001\ndevices = ['0000:01:00.0', '0000:02:00.0']\n\
                      links = { net = 'a546' }\n[vm.'user/a']\nuid = 70001\n\
                      devices = ['0000:03:00.0',\n '0000:02:00.0']\n[vm.'user/a'.links]\nx = 'a546'\n\
                      [uids]\nfirst = 2\nlast = 1\n[tools]\nip = 'ip'\n";
        assert_eq!(
            places(&format!("{SOURCE}{tables}")),
            [
                "10:7: [vm.\"user/a\"] and [vm.\"user/b\"] both have the user id 70001 (see line 6, too)",
                "12:2: [vm.\"user/a\"] and [vm.\"user/b\"] both list the device 0000:02:00.0 (see line 7, too)",
                "14:5: [vm.\"user/a\"] and [vm.\"user/b\"] both declare the link id a546 (see line 8, too)",
                "15:1: the user ids 2 to 1 are not a valid range for VMs",
                "19:6: the path of ip, ip, is not absolute",
            ]
            .map(str::to_owned)
        );
    }

    #[test]
    fn a_partition_starts_nothing_unless_its_entry_allows_it() {
        let other = "[[source]]\nkind = 'builtin'\nname = 'own'\npath = '/srv/own'\n";
        let table = "[vm.'user/a']\nautostart = true\n";
        let printed = read(&format!("{SOURCE}{other}{table}")).unwrap_err();
        assert!(
            printed.contains("[vm.\"user/a\"] sets autostart, but source 'user' does not allow it"),
            "{printed}"
        );
        for good in [
            format!("{SOURCE}autostart = true\n{other}{table}"),
            format!("{SOURCE}{other}{}", table.replace("user", "own")),
            format!("{SOURCE}{other}[defaults]\nautostart = true\n"),
        ] {
            let config = read(&good).unwrap();
            // The built-in source comes first, wherever it is written.
            let order: Vec<_> = config.sources.iter().map(|source| source.name.to_string()).collect();
            assert_eq!(order, ["own", "user"]);
        }
        let strict = read(&format!("{SOURCE}{}autostart = false\n", other)).unwrap();
        assert!(strict.sources.iter().all(|source| !source.may_autostart()));
    }

    #[test]
    fn a_vm_of_the_cluster_is_started_by_the_cluster_alone() {
        let builtin = SOURCE.replace("user-partition", "builtin");
        let two = format!("{builtin}cluster = true\n{}", SOURCE.replace("user'", "own'").replace("/P", "/Q"));
        let is_clusters = |config: &Config, vm: &str| config.settings(&vm.parse().unwrap()).cluster;
        let config = read(&format!("{two}[vm.'user/local']\ncluster = false\nautostart = true\n")).unwrap();
        assert_eq!(is_clusters(&config, "user/a"), Some(true));
        assert_eq!(is_clusters(&config, "user/local"), Some(false));
        assert_eq!(is_clusters(&config, "own/a"), None);
        let config = read(&format!("{SOURCE}[defaults]\ncluster = true\n")).unwrap();
        assert_eq!(is_clusters(&config, "user/a"), Some(true));
        let both = "cluster = true\nautostart = true\n";
        for (text, cause) in [
            (format!("{builtin}[vm.a]\n{both}"), "config.toml:7:13: [vm.\"a\"] has autostart beside cluster"),
            (format!("{SOURCE}autostart = true\n[vm.a]\n{both}"), "[vm.\"a\"] has autostart"),
            (
                format!("{SOURCE}[vm.a]\ncluster = true\nrestart-if-changed = true\n"),
                "has restart-if-changed",
            ),
            (format!("{two}[vm.'user/a']\nautostart = true\n"), "[vm.\"user/a\"] has autostart"),
            (format!("{two}[defaults]\nautostart = true\n"), "the source user has by [defaults] autostart"),
            (format!("{builtin}[defaults]\n{both}"), "[defaults] sets autostart"),
            (format!("[vm.n]\nrunner = '/r'\n{both}"), "[vm.\"n\"] has autostart"),
        ] {
            let printed = read(&text).unwrap_err();
            assert!(printed.contains(cause), "{cause}: {printed}");
            assert_eq!(printed.matches("the cluster alone").count(), 1, "{printed}");
        }
        // Of a partition, none would start with the host.
        let partition = format!("{SOURCE}cluster = true\n[defaults]\nautostart = true\n");
        assert_eq!(is_clusters(&read(&partition).unwrap(), "user/a"), Some(true));
    }

    #[test]
    fn a_source_is_a_path_or_a_partition() {
        let entry = |rest: &str| format!("[[source]]\nkind = 'user-partition'\nname = 'stick'\n{rest}\n");
        let uuid = "6A5B0B3C-1234-4abc-9def-0123456789ab";
        let config = read(&entry(&format!("partuuid = '{uuid}'"))).unwrap();
        let stick = &config.sources[0];
        assert_eq!(stick.root(), Path::new("/run/microvm-spectrum/partitions/stick"));
        assert_eq!(stick.partuuid.as_ref().unwrap().to_string(), uuid.to_lowercase());
        assert!(read(&entry("partuuid = '1a2b3c4d-01'")).is_ok());
        for (text, cause) in [
            (entry(""), "neither a path nor a partuuid"),
            (entry(&format!("path = '/srv/P'\npartuuid = '{uuid}'")), "both a path and a partuuid"),
            (entry("partuuid = '../../sda'"), "'../../sda' is not a PARTUUID"),
            (
                entry(&format!("partuuid = '{uuid}'")).replace("user-partition", "builtin"),
                "is not a user-partition",
            ),
        ] {
            let printed = read(&text).unwrap_err();
            assert!(printed.contains(cause), "{cause}: {printed}");
        }
    }

    #[test]
    fn a_runner_is_a_vm_of_no_source() {
        let two = SOURCE.replace("'user'", "'other'").replace("/srv/P", "/srv/Q");
        let runner = "[vm.nixed]\nrunner = '/nix/store/x-microvm-nixed'\n";
        let config = read(&format!("{SOURCE}{two}{runner}autostart = true\nuid = 70005\n")).unwrap();
        let (id, path) = config.runners().next().unwrap();
        assert_eq!(
            (id.to_string().as_str(), path.to_str()),
            ("configuration/nixed", Some("/nix/store/x-microvm-nixed"))
        );
        assert_eq!(config.settings(&id).autostart, Some(true));
        assert_eq!(config.declared_uids().next().unwrap(), (id, 70_005));
        assert!(read(&runner.replace("vm.nixed", "vm.'configuration/nixed'")).is_ok());
        for (text, cause) in [
            (
                format!("{runner}memory = 64\nlinks = {{ a = 'a546' }}\n"),
                "sets memory, which its runner has built in",
            ),
            (
                format!("{SOURCE}{}", runner.replace("vm.nixed", "vm.'user/nixed'")),
                "sets runner, but is a VM of a source",
            ),
            (runner.replace("/nix", "nix"), "is not an absolute path"),
            (
                format!("{runner}[vm.'configuration/other']\nautostart = true\n"),
                "[vm.\"configuration/other\"] has no runner",
            ),
            (format!("[defaults]\nrunner = '/a'\n{runner}"), "[defaults] sets runner or uid"),
            (SOURCE.replace("'user'", "'configuration'"), "the source name configuration is reserved"),
            (format!("{SOURCE}[vm.a]\nuid = 70001\n[vm.b]\nuid = 70001\n"), "both have the user id 70001"),
            (
                format!("{SOURCE}{}", SOURCE.replace("'user'", "'other'")),
                "the sources user and other are the same place",
            ),
            (format!("{SOURCE}[vm.a]\nuid = 0\n"), "the user id 0, which no VM can have"),
        ] {
            let printed = read(&text).unwrap_err();
            assert!(printed.contains(cause), "{cause}: {printed}");
        }
    }

    #[test]
    fn every_wrong_key_and_value_is_reported_with_its_key() {
        let text = format!(
            "tols = {{}}\n{SOURCE}colour = 'red'\n[[source]]\nkind = 'user-partition'\nname = 'x'\n\
             partuuid = 'sda1'\n[uids]\nfirst = 70000\n[vm.'user/a']\nmemroy = 5\nvcpus = 'x'\n\
             devices = ['0000:01:00.0', '1', '2']\n[vm.b.links]\nnetvm = 'ffff'\n"
        );
        let printed = read(&text).unwrap_err();
        for part in [
            "config.toml:1:1: tols: unknown field `tols`",
            "config.toml:6:1: source.colour: unknown field",
            "config.toml:10:12: source.partuuid: 'sda1' is not a PARTUUID",
            "config.toml:11:1: uids: missing field `last`",
            "config.toml:14:1: vm.\"user/a\".memroy: unknown field",
            "config.toml:15:9: vm.\"user/a\".vcpus: invalid type",
            "config.toml:16:11: vm.\"user/a\".devices: '1' is not",
            "config.toml:18:9: vm.b.links.netvm: the link ids 0000",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        assert_eq!(printed.matches("error: ").count(), 8, "{printed}");
    }

    #[test]
    fn every_mistake_is_reported_in_one_go() {
        let text = format!(
            "{SOURCE}{}[uids]\nfirst = 1000\nlast = 2000\n[tools]\nip = 'ip'\n[vm.'a']\n[vm.'other/x']\n[vm.'a b']\n",
            SOURCE.replace("/srv/P", "P")
        );
        let printed = read(&text).unwrap_err();
        for part in [
            "two sources have the name user",
            "the path of the source user is not absolute",
            "the user ids 1000 to 2000",
            "the path of ip, ip, is not absolute",
            "[vm.\"a\"]",
            "[vm.\"other/x\"]",
            "[vm.\"a b\"]",
        ] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
    }
}
