// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A host for `sync`: a user partition, a configuration and a state directory,
//! and what must be true of the latter whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use microvm_spectrum::base::name::VmName;
use microvm_spectrum::package::{Entry, Package};
use serde_json::Value;

use crate::namespace::{shell, words};
use crate::schema;
use crate::support::program::{TOOLS, call, run};
use crate::support::tree::{self, Node, Tree};
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

/// The host. Its user partition is the source `user`.
pub struct Host {
    _guard: tempfile::TempDir,
    pub root: PathBuf,
    pub partition: Partition,
    pub config: PathBuf,
    pub state: PathBuf,
}

/// Where systemd keeps the output of its generators.
const GENERATED: &str = "/run/systemd/generator";

/// The key in the drop-in of a VM.
pub fn key_in(drop_in: &str) -> String {
    drop_in.lines().next_back().unwrap().split_once(" the same key: ").unwrap().1.to_owned()
}

/// A call as a shell's command; nothing in it needs quotes.
fn script_of(command: &Command) -> String {
    words(command).map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// A `[[source]]` that is a user partition.
pub fn source(name: &str, path: &Path) -> String {
    format!(
        "[[source]]\nkind = 'user-partition'\nname = '{name}'\npath = '{}'\nautostart = true\n",
        path.display()
    )
}

/// A table that names every tool, so that nothing depends on this host.
pub fn tools() -> String {
    let lines = TOOLS.iter().map(|tool| format!("{tool} = '/usr/bin/{tool}'\n"));
    format!("[tools]\n{}", lines.collect::<String>())
}

/// A host in a directory of its own, without VMs.
pub fn host() -> Host {
    let (guard, root) = workplace();
    Host::at(guard, root)
}

/// Like [`host`], in memory where there is some: for thousands of files, and where
/// waiting for a disk would be most of the time.
pub fn host_in_memory() -> Host {
    let guard = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let root = guard.path().canonicalize().unwrap();
    Host::at(guard, root)
}

impl Host {
    /// A host in this directory.
    pub fn at(guard: tempfile::TempDir, root: PathBuf) -> Self {
        let partition = Partition::at(&root.join("partition"));
        let (config, state) = (root.join("config.toml"), root.join("state"));
        let host = Self { _guard: guard, root, partition, config, state };
        host.configure("");
        host
    }

    /// Configures the source `user`, and `more`.
    pub fn configure(&self, more: &str) {
        self.configure_sources(&[("user", &self.partition.root)], more);
    }

    /// Configures these sources, and `more`.
    pub fn configure_sources(&self, sources: &[(&str, &Path)], more: &str) {
        let sources: String = sources.iter().map(|(name, path)| source(name, path)).collect();
        fs::write(&self.config, format!("{sources}{more}\n{}", tools())).unwrap();
    }

    /// Makes a VM directory without problems.
    pub fn vm(&self, name: &str) -> VmDirectory {
        self.partition.vm(name).image("root.img", b"")
    }

    /// A call of `sync` that touches nothing but the state directory.
    pub fn sync(&self) -> Command {
        self.sync_to(&self.state)
    }

    /// Like [`Host::sync`], for another state directory.
    pub fn sync_to(&self, state: &Path) -> Command {
        let mut command = call(["sync", "--no-systemd", "--config"]);
        command.arg(&self.config).arg("--state-dir").arg(state);
        command
    }

    /// A call of another command that knows the state directory.
    pub fn call(&self, arguments: &[&str]) -> Command {
        let mut command = call(arguments);
        command.arg("--state-dir").arg(&self.state);
        command
    }

    /// A call of what the unit files call.
    pub fn unit_calls(&self, arguments: &[&str]) -> Command {
        let mut command = call(["host", "--state-dir"]);
        command.arg(&self.state).args(arguments);
        command
    }

    /// A call of `host set-booted`, with a `/run` that no other process sees, since it
    /// prepares for clients there. systemd has read the drop-ins.
    pub fn set_booted(&self, name: &str) -> Command {
        self.unit_calls_after(&self.generate_there(), &["set-booted", name])
    }

    /// The same, when systemd has read the drop-ins in a directory.
    pub fn set_booted_with(&self, drop_ins: &Path, name: &str) -> Command {
        let copy = format!("mkdir -p {GENERATED} && cp -r {}/. {GENERATED}", drop_ins.display());
        self.unit_calls_after(&copy, &["set-booted", name])
    }

    /// A call of `host run` after `host set-booted`.
    pub fn run_as_root(&self, name: &str) -> Command {
        let set_booted = script_of(&self.unit_calls(&["set-booted", name]));
        self.unit_calls_after(&format!("{} && {set_booted}", self.generate_there()), &["run", name])
    }

    fn generate_there(&self) -> String {
        // Not into the kernel's log of this host.
        let log = "{ [ ! -e /dev/kmsg ] || mount --bind /dev/null /dev/kmsg; }";
        format!("{log} && {}", script_of(&self.unit_calls(&["generate", GENERATED])))
    }

    fn unit_calls_after(&self, script: &str, arguments: &[&str]) -> Command {
        let script = format!("mount -t tmpfs none /run && {script} && exec \"$@\"");
        shell(&script, words(&self.unit_calls(arguments)))
    }

    /// A call of `host clear-booted`, with such a `/run`.
    pub fn clear_booted(&self, name: &str) -> Command {
        let call = self.unit_calls(&["clear-booted", name]);
        shell("mount -t tmpfs none /run && exec \"$@\"", words(&call))
    }

    /// Syncs without any problem.
    #[track_caller]
    pub fn synced(&self) {
        run(&mut self.sync()).exits(0).warns_of_nothing();
        self.is_whole();
    }

    /// A path in what belongs to the program alone.
    pub fn own(&self, path: &str) -> PathBuf {
        self.state.join(".microvm-spectrum").join(path)
    }

    /// The catalog, which must be as its schema says.
    #[track_caller]
    pub fn catalog(&self) -> Value {
        catalog(&self.state)
    }

    /// The number of the current generation.
    #[track_caller]
    pub fn generation(&self) -> u64 {
        self.catalog()["generation"].as_u64().unwrap()
    }

    /// What the catalog says of a VM.
    #[track_caller]
    pub fn in_catalog(&self, id: &str) -> Value {
        let catalog = self.catalog();
        let found = catalog["vms"].as_array().unwrap().iter().find(|vm| id_of(vm) == id).cloned();
        found.unwrap_or_else(|| panic!("{id} is not in {catalog:#}"))
    }

    /// All VMs with their states, in the catalog's order.
    #[track_caller]
    pub fn states(&self) -> Vec<(String, String)> {
        let catalog = self.catalog();
        let vms = catalog["vms"].as_array().unwrap().iter();
        vms.map(|vm| (id_of(vm), vm["state"].as_str().unwrap().to_owned())).collect()
    }

    /// Asserts which VMs are in the catalog, with their states.
    #[track_caller]
    pub fn has(&self, expected: &[(&str, &str)]) {
        let states = self.states();
        let states: Vec<_> = states.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect();
        assert_eq!(states, expected);
    }

    /// The user id of a VM that can run.
    #[track_caller]
    pub fn uid(&self, id: &str) -> u32 {
        u32::try_from(self.in_catalog(id)["uid"].as_u64().unwrap()).unwrap()
    }

    /// The path of a VM's package.
    #[track_caller]
    pub fn package(&self, id: &str) -> PathBuf {
        self.own("packages").join(self.in_catalog(id)["package"].as_str().unwrap())
    }

    /// The leases by VM.
    #[track_caller]
    pub fn leases(&self) -> BTreeMap<String, u32> {
        let leases: Value =
            serde_json::from_str(&fs::read_to_string(self.own("leases.json")).unwrap()).unwrap();
        serde_json::from_value(leases["uids"].clone()).unwrap()
    }

    /// Asserts that the state directory is one that `sync` has finished with.
    #[track_caller]
    pub fn is_whole(&self) {
        is_whole(&self.state);
        let names = ["current", "generations", "known.json", "leases.json", "lock", "packages", "unused"];
        let may_lack = ["known.json", "leases.json", "unused"];
        let is_there = |name: &&&str| !may_lack.contains(name) || self.own(name).exists();
        let names = names.iter().filter(is_there);
        assert_eq!(tree::names(&self.own("")), names.copied().collect::<Vec<_>>());
        let generation = self.generation().to_string();
        assert_eq!(tree::names(&self.own("generations")), [generation.as_str()]);
        assert_eq!(packages_of(&self.catalog(), &self.state), tree::names(&self.own("packages")));
    }
}

/// `SOURCE/NAME` of a VM in a catalog.
pub fn id_of(vm: &Value) -> String {
    format!("{}/{}", vm["source"].as_str().unwrap(), vm["name"].as_str().unwrap())
}

/// The catalog of a state directory, which must be as its schema says.
#[track_caller]
pub fn catalog(state: &Path) -> Value {
    let path = state.join(".microvm-spectrum/current/catalog.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(text.ends_with("}\n"));
    let catalog = serde_json::from_str(&text).unwrap();
    schema::assert_valid(&catalog);
    catalog
}

/// The packages that a catalog or a `booted` names, sorted.
fn packages_of(catalog: &Value, state: &Path) -> Vec<String> {
    let vms = catalog["vms"].as_array().unwrap().iter();
    let mut packages: BTreeSet<_> = vms.filter_map(|vm| vm["package"].as_str()).map(str::to_owned).collect();
    for name in tree::names(state) {
        if let Ok(booted) = fs::read_link(state.join(name).join("booted")) {
            packages.insert(booted.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    packages.into_iter().collect()
}

/// Asserts that the current generation is complete: its number, its links, and
/// every package that it names. Whatever else is there does not matter.
#[track_caller]
pub fn is_whole(state: &Path) {
    let own = state.join(".microvm-spectrum");
    let catalog = catalog(state);
    let generation = PathBuf::from(format!("generations/{}", catalog["generation"]));
    assert_eq!(fs::read_link(own.join("current")).unwrap(), generation);
    let vms = catalog["vms"].as_array().unwrap().iter();
    let runnable: BTreeMap<_, _> = vms
        .filter(|vm| vm["state"] == "runnable")
        .map(|vm| (vm["name"].as_str().unwrap(), vm["package"].as_str().unwrap()))
        .collect();
    let directory = own.join(generation);
    assert_eq!(tree::names(&directory), ["catalog.json", "vms"]);
    assert_eq!(tree::names(&directory.join("vms")), runnable.keys().copied().collect::<Vec<_>>());
    for (name, package) in runnable {
        let link = fs::read_link(directory.join("vms").join(name)).unwrap();
        assert_eq!(link, Path::new("../../../packages").join(package));
        is_complete(&own.join("packages").join(package), name);
    }
}

/// Asserts that a package has all that it names itself by: it is called by the
/// digest of its whole content.
#[track_caller]
fn is_complete(package: &Path, name: &str) {
    let mut entries = BTreeMap::new();
    for (path, node) in tree::read(package) {
        let entry = match node {
            Node::Directory { mode } => {
                assert_eq!(mode, 0o755, "{}", path.display());
                continue;
            }
            Node::File { mode: 0o644, content } => Entry::File(String::from_utf8(content).unwrap()),
            Node::File { mode: 0o755, content } => Entry::Executable(String::from_utf8(content).unwrap()),
            Node::Link(target) => Entry::Link(target),
            other => panic!("{}: {other:?}", path.display()),
        };
        entries.insert(path, entry);
    }
    let found = package.file_name().unwrap().to_str().unwrap();
    // That this is the digest that Nix computes is proven elsewhere.
    let expected = Package(entries).store_name(&VmName::new(name).unwrap());
    assert_eq!(found, expected, "not what the package was when it was named");
}

/// What shows whether a file was touched: its inode, mode, owner, and times.
pub type Touched = BTreeMap<PathBuf, (u64, u32, u32, i64, i64, i64, i64)>;

/// Everything in a directory, as it was last touched.
pub fn touched(root: &Path) -> Touched {
    let paths = tree::read(root).into_keys();
    paths
        .map(|path| {
            let m = root.join(&path).symlink_metadata().unwrap();
            let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
            (path, (m.ino(), m.mode(), m.uid(), times.0, times.1, times.2, times.3))
        })
        .collect()
}

/// A tree without the mode of what this user's umask has a say in.
pub fn plain_directory() -> Node {
    Node::Directory { mode: 0o755 }
}

/// Some of a tree, by the beginning of the paths.
pub fn beneath(tree: &Tree, prefix: &str) -> Tree {
    tree.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(p, n)| (p.clone(), n.clone())).collect()
}

/// Makes an executable script.
pub fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
