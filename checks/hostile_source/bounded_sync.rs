// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A host with one user partition, whose `sync` has limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::program::{PROGRAM, Ran, TOOLS, quiet, run};
use crate::support::vm_directory::Partition;

/// Whatever is in a source, reading it takes no more processor time, also on a slow machine.
const SOON: Duration = Duration::from_secs(20);
/// How much address space the program may have, in KiB. Beyond it, it aborts. It
/// takes 10 MiB when there is little to read.
pub const MEMORY_KIB: u32 = 64 << 10;

/// The host.
pub struct Host {
    _guard: tempfile::TempDir,
    pub partition: Partition,
    pub config: PathBuf,
    pub state: PathBuf,
}

impl Host {
    /// A host without VMs, in memory where there is some.
    pub fn new() -> Self {
        let guard = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let root = guard.path().canonicalize().unwrap();
        let partition = Partition::at(&root.join("partition"));
        let path = partition.root.display();
        let source = format!("[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{path}'\n");
        let tools: String = TOOLS.iter().map(|tool| format!("{tool} = '/usr/bin/{tool}'\n")).collect();
        let config = root.join("config.toml");
        fs::write(&config, format!("{source}[tools]\n{tools}")).unwrap();
        Self { _guard: guard, partition, config, state: root.join("state") }
    }

    /// A call of `sync` that has this much memory.
    pub fn sync(&self, kib: u32) -> Command {
        self.sync_within(kib, SOON.as_secs())
    }

    /// A call of `sync` that has this much memory and processor time.
    pub fn sync_within(&self, kib: u32, seconds: u64) -> Command {
        let mut command = quiet("sh");
        let limits = "ulimit -v \"$1\" && ulimit -t \"$2\" && shift 2 && exec \"$@\"";
        command.args(["-c", limits, "sh", &kib.to_string(), &seconds.to_string(), PROGRAM]);
        command.args(["sync", "--no-systemd", "--config"]).arg(&self.config);
        command.arg("--state-dir").arg(&self.state);
        command
    }

    /// Syncs within the limits; asserts what must be true whatever the partition is.
    #[track_caller]
    pub fn synced(&self) -> Ran {
        let ran = run(&mut self.sync(MEMORY_KIB));
        assert!(matches!(ran.status, 0 | 1), "{}: {}", ran.status, ran.stderr);
        for line in ran.stderr.lines().chain(ran.stdout.lines()) {
            // A path has at most 4095 bytes, and there are two of them in a line at most.
            assert!(line.len() < 10_000, "{} bytes: {line}", line.len());
        }
        self.leads_nowhere_else();
        ran
    }

    fn catalog(&self) -> Value {
        let path = self.state.join(".microvm-spectrum/current/catalog.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The states of all VMs.
    pub fn states(&self) -> BTreeMap<String, String> {
        let catalog = self.catalog();
        let text = |vm: &Value, key: &str| vm[key].as_str().unwrap().to_owned();
        catalog["vms"].as_array().unwrap().iter().map(|vm| (text(vm, "name"), text(vm, "state"))).collect()
    }

    /// Asserts that each VM that can run has all its files in the partition.
    #[track_caller]
    fn leads_nowhere_else(&self) {
        for (name, _) in self.states().iter().filter(|(_, state)| *state == "runnable") {
            let manifest = self.state.join(name).join("current/share/microvm-spectrum/manifest.json");
            let manifest: Value = serde_json::from_str(&fs::read_to_string(manifest).unwrap()).unwrap();
            let list = |key: &str| manifest[key].as_array().unwrap().clone();
            let mut paths = vec![manifest["kernel"]["path"].clone()];
            paths.extend(list("images").iter().map(|image| image["path"].clone()));
            paths.extend(list("shares").iter().map(|share| share["source"].clone()));
            assert!(paths.len() >= 2, "{paths:?}");
            for path in &paths {
                let path = Path::new(path.as_str().unwrap());
                let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
                assert!(path.starts_with(&self.partition.root) && !climbs, "{name}: {}", path.display());
            }
        }
    }
}
