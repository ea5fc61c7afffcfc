// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`, killed at any moment: the catalog is the whole old one or the whole
//! new one, every package that it names is complete, and the next `sync` makes
//! of it what an undisturbed one would have made.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::program::{call, run};
use crate::support::tree;
use crate::support::vm_directory::Partition;
use crate::sync_host::{Host, catalog, host_in_memory, is_whole, source, tools};

const ROUNDS: u32 = 150;

/// Numbers that are random enough to spread over the time of a sync.
struct Random(u64);

impl Random {
    /// The next one, from 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// Two configurations: some VMs change from one to the other, some come and go,
/// and one stays as it is.
pub fn two_configurations(host: &Host) -> [std::path::PathBuf; 2] {
    let partitions = ["stays", "first", "second"].map(|name| Partition::at(&host.root.join(name)));
    for (partition, names) in partitions.iter().zip([&["same", "changes"][..], &["p", "q"], &["q", "r"]]) {
        for name in names {
            partition.vm(name).image("root.img", b"");
        }
    }
    [("first", 1, "64"), ("second", 2, "128")].map(|(name, index, memory)| {
        let path = host.root.join(format!("{name}.toml"));
        let settings = format!("[vm.'stays/changes']\nmemory = {memory}\n");
        let sources = [source("stays", &partitions[0].root), source(name, &partitions[index].root)];
        fs::write(&path, sources.join("") + &settings + &tools()).unwrap();
        path
    })
}

/// A call of `sync` with this configuration.
pub fn sync(config: &Path, state: &Path) -> Command {
    let mut command = call(["sync", "--no-systemd", "--config"]);
    command.arg(config).arg("--state-dir").arg(state);
    command
}

/// What a catalog says of all VMs.
pub fn vms(state: &Path) -> Value {
    catalog(state)["vms"].clone()
}

/// The folders of VMs; an empty one is as good as none.
fn folders(state: &Path) -> Vec<String> {
    let is_empty = |name: &String| tree::names(&state.join(name)).is_empty();
    tree::names(state).into_iter().filter(|name| name != ".microvm-spectrum" && !is_empty(name)).collect()
}

#[test]
fn the_catalog_is_always_whole() {
    let host = host_in_memory();
    let configs = two_configurations(&host);
    let state = &host.state;
    // Both once, so that all leases are given and the catalogs are the same ever after.
    let mut usual = Duration::MAX;
    let mut timed = |config: &Path| {
        let started = Instant::now();
        run(&mut sync(config, state)).exits(0);
        usual = usual.min(started.elapsed());
    };
    timed(&configs[0]);
    timed(&configs[1]);
    let catalogs = [1, 0].map(|index| {
        timed(&configs[1 - index]);
        timed(&configs[index]);
        (vms(state), folders(state))
    });
    let catalogs = [&catalogs[1], &catalogs[0]];
    assert_ne!(catalogs[0], catalogs[1]);

    let (mut present, mut random) = (0, Random(0x9e37_79b9_7f4a_7c15));
    let (mut killed, mut kept, mut switched, mut halfway) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let wanted = 1 - present;
        let mut command = sync(&configs[wanted], state);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * 1.2 * random.next()));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.signal().is_some() || status.success(), "{status}");
        killed += u32::from(status.signal().is_some());
        is_whole(state);
        let found = vms(state);
        if found == catalogs[wanted].0 {
            switched += 1;
            halfway += u32::from(folders(state) != catalogs[wanted].1);
        } else {
            assert_eq!(found, catalogs[present].0, "neither catalog, in round {round}");
            assert!(status.signal().is_some(), "it said that it was done");
            kept += 1;
        }
        // Back, or on: what is left of the killed one does no harm.
        present = if random.next() < 0.5 { present } else { wanted };
        run(&mut sync(&configs[present], state)).exits(0).warns_of_nothing();
        // Nothing else is left, not even under a temporary name.
        host.is_whole();
        assert_eq!((&vms(state), &folders(state)), (&catalogs[present].0, &catalogs[present].1));
        for name in folders(state) {
            assert_eq!(tree::names(&state.join(&name)), ["current"]);
            assert!(state.join(name).join("current/bin/microvm-run").exists());
        }
    }
    println!("{killed} killed, {kept} kept, {switched} switched, {halfway} of them not finished");
    assert!(killed > 0 && kept > 0 && switched > 0, "{killed} {kept} {switched}");
}

#[test]
fn the_first_one_of_all_too() {
    let host = host_in_memory();
    host.vm("a");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let started = Instant::now();
    run(&mut host.sync()).exits(0);
    let usual = started.elapsed();
    let whole = vms(&host.state);
    let mut nothing = 0;
    for _ in 0..40 {
        fs::remove_dir_all(&host.state).unwrap();
        let mut child = host.sync().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * 1.2 * random.next()));
        child.kill().unwrap();
        child.wait().unwrap();
        if host.own("current").is_symlink() {
            is_whole(&host.state);
            assert_eq!(vms(&host.state), whole);
        } else {
            nothing += 1;
            // What is there means nothing to anybody.
            let listed = run(&mut host.call(&["list"])).exits(0);
            assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
            let output = host.root.join("generated");
            run(host.unit_calls(&["generate"]).arg(&output)).exits(0).says_nothing();
            assert!(!output.exists());
        }
        host.synced();
        assert_eq!(vms(&host.state), whole);
    }
    assert!(nothing > 0);
}
