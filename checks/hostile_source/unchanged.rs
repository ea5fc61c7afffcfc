// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What looks as it was and is not: `sync` reads only what has changed, and nobody who writes
//! to a partition decides what that is.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bounded_sync::{Host, MEMORY_KIB};
use crate::namespace::{mounts, shell, words};
use crate::support::program::{copy, quiet, run};
use crate::support::skip::{needs, root};
use crate::support::vm_directory::elf_header;
use crate::support::waiting::wait_for;

/// What the last sync remembers.
fn remembered(host: &Host) -> String {
    fs::read_to_string(host.state.join(".microvm-spectrum/known.json")).unwrap_or_default()
}

/// A host with the VM `vm`, which the program remembers, once the clock lets it.
fn host() -> (Host, PathBuf) {
    let host = Host::new();
    let vm = host.partition.vm("vm").image("root.img", b"-").path;
    (host, vm)
}

/// The two parts of what the last sync remembers: what tells that nothing has changed, and
/// what need not be read again.
fn parts(host: &Host) -> Option<[Value; 2]> {
    let text = remembered(host);
    let (head, rest) = text.split_once('\n')?;
    Some([serde_json::from_str(head).ok()?, serde_json::from_str(rest).ok()?])
}

fn settle(host: &Host) {
    wait_for("sync remembers the VM and its package", || {
        host.synced();
        let [_, rest] = parts(host)?;
        let has_vm = rest["memory"]["partitions"][0]["vms"].get("svc/data/vm").is_some();
        (has_vm && rest["packages"]["of_vms"].get("user/vm").is_some()).then_some(())
    });
}

/// Waits until the whole round, as it is now, counts.
fn settle_all(host: &Host) {
    let _ = fs::remove_file(host.state.join(".microvm-spectrum/known.json"));
    wait_for("sync remembers the round", || {
        host.synced();
        (!parts(host)?[0]["round"].is_null()).then_some(())
    });
}

/// The state of the VM, and the stamps of its files.
fn state(host: &Host) -> (String, Value) {
    vm_state(host, "vm")
}

fn vm_state(host: &Host, name: &str) -> (String, Value) {
    let catalog = fs::read_to_string(host.state.join(".microvm-spectrum/current/catalog.json")).unwrap();
    let catalog: Value = serde_json::from_str(&catalog).unwrap();
    let vm = catalog["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap();
    (vm["state"].as_str().unwrap().to_owned(), vm["files"].clone())
}

/// Changes a file, and puts back the time that everyone can set.
fn with_time_put_back(path: &Path, change: impl FnOnce()) {
    let before = path.metadata().unwrap().modified().unwrap();
    change();
    fs::File::open(path).unwrap().set_modified(before).unwrap();
}

#[test]
fn a_file_that_pretends_to_be_the_same_is_noticed() {
    let (host, vm) = host();
    settle_all(&host);
    let unchanged = remembered(&host);
    assert_eq!((host.synced().status, remembered(&host)), (0, unchanged));
    assert_eq!(state(&host).0, "runnable");
    // It really is not read: what is remembered of it is believed when another VM has changed.
    let path = host.state.join(".microvm-spectrum/known.json");
    let other = host.partition.vm("other").image("root.img", b"-").path;
    settle_all(&host);
    fs::write(&path, remembered(&host).replace("blk/root.img\"", "blk/known.img\"")).unwrap();
    fs::write(other.join("wayland"), "").unwrap();
    host.synced();
    let (_, stamps) = vm_state(&host, "vm");
    assert!(stamps.to_string().contains("blk/known.img"), "{stamps}");
    fs::remove_dir_all(other).unwrap();
    fs::remove_file(path).unwrap();
    settle(&host);
    let (_, stamps) = state(&host);
    assert!(stamps.to_string().contains("blk/root.img"), "{stamps}");

    // Not a kernel any more, of the same size and time.
    let kernel = vm.join("vmlinux");
    let length = fs::read(&kernel).unwrap().len();
    with_time_put_back(&kernel, || fs::write(&kernel, vec![b'x'; length]).unwrap());
    assert_eq!(host.synced().status, 1);
    assert_eq!(state(&host).0, "broken");
    // A kernel takes its place.
    let other = vm.join("../../kernel");
    fs::write(&other, &[elf_header(), vec![0; length]].concat()[..length]).unwrap();
    fs::rename(other, &kernel).unwrap();
    assert_eq!(host.synced().status, 0);
    settle(&host);
    // A link that leads out, in the place of an image, in a directory whose time is put back.
    let blk = vm.join("blk");
    with_time_put_back(&blk, || {
        fs::remove_file(blk.join("root.img")).unwrap();
        symlink("/etc/hostname", blk.join("root.img")).unwrap();
    });
    assert_eq!(host.synced().status, 1);
    assert_eq!(state(&host).0, "broken");
}

#[test]
fn a_file_that_changes_all_the_time_is_read_each_time() {
    let (host, vm) = host();
    let kernel = vm.join("vmlinux");
    let good = fs::read(&kernel).unwrap();
    let bad = vec![b'x'; good.len()];
    // Each change within the same moment as the reading before.
    for round in 0..10 {
        fs::write(&kernel, &bad).unwrap();
        assert_eq!(host.synced().status, 1, "{round}");
        fs::write(&kernel, &good).unwrap();
        assert_eq!(host.synced().status, 0, "{round}");
        assert_eq!(state(&host).0, "runnable", "{round}");
    }
}

#[test]
fn a_damaged_package_is_mended_although_its_vm_is_the_same() {
    let (host, _) = host();
    settle(&host);
    let packages = host.state.join(".microvm-spectrum/packages");
    let package = fs::read_dir(packages).unwrap().next().unwrap().unwrap().path();
    let (run, system) = (package.join("bin/microvm-run"), package.join("share/microvm/system"));
    let before = (fs::read(&run).unwrap(), fs::read_link(&system).unwrap());
    let now = || (fs::read(&run).unwrap_or_default(), fs::read_link(&system).unwrap_or_default());
    type Damage<'a> = &'a dyn Fn();
    let damages: [Damage<'_>; 3] = [
        &|| {
            with_time_put_back(&run, || fs::write(&run, vec![b'x'; before.0.len()]).unwrap());
            // Where nothing else has changed, sync looks at no script.
            fs::write(host.partition.root.join("svc/data/file"), "").unwrap();
        },
        &|| fs::remove_file(&system).unwrap(),
        &|| fs::remove_dir_all(&package).unwrap(),
    ];
    for damage in damages {
        settle_all(&host);
        damage();
        assert_ne!(now(), before);
        host.synced();
        assert_eq!(now(), before);
    }
}

/// What a round has reported that never was: who says it has looked at nothing else.
const PLANTED: &str = "was planted by this test";

/// A host whose next round reports what was planted, if everything is as it was.
fn planted() -> Host {
    let (host, vm) = host();
    // A share, a note about a setting, and links.
    fs::create_dir_all(host.partition.root.join("shares/one")).unwrap();
    fs::create_dir_all(vm.join("shared-dirs/files")).unwrap();
    symlink("/ext/shares/one", vm.join("shared-dirs/files/dir")).unwrap();
    let config = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, config + "[vm.nowhere]\nmemory = 64\n").unwrap();
    host.synced();
    host
}

fn plant(host: &Host) {
    settle_all(host);
    let path = host.state.join(".microvm-spectrum/known.json");
    let text = remembered(host);
    let (head, rest) = text.split_once('\n').unwrap();
    let mut head: Value = serde_json::from_str(head).unwrap();
    let problems = head["round"]["record"]["problems"].as_array_mut().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let mut planted = problems[0].clone();
    planted["cause"] = PLANTED.into();
    problems.push(planted);
    fs::write(path, format!("{head}\n{rest}")).unwrap();
}

#[test]
fn a_round_reports_the_same_again_unless_anything_has_changed() {
    type Change = fn(&Host);
    let changes: [(&str, Change); 20] = [
        ("the configuration", |host| {
            let config = fs::read_to_string(&host.config).unwrap();
            fs::write(&host.config, config.replace("memory = 64", "memory = 65")).unwrap();
        }),
        ("a tool", |host| {
            let config = fs::read_to_string(&host.config).unwrap();
            fs::write(&host.config, config.replace("'/usr/bin/virtiofsd'", "'/usr/bin/other'")).unwrap();
        }),
        ("a VM more", |host| drop(host.partition.vm("more"))),
        ("an entry beside the VMs", |host| fs::write(host.partition.root.join("svc/data/x"), "").unwrap()),
        ("no VM", |host| fs::remove_dir_all(host.partition.root.join("svc/data/vm")).unwrap()),
        ("the partition gone", |host| {
            fs::rename(&host.partition.root, host.partition.root.with_file_name("gone")).unwrap();
        }),
        ("its VMs elsewhere", |host| {
            let root = &host.partition.root;
            fs::rename(root.join("svc"), root.join("other")).unwrap();
            symlink("other", root.join("svc")).unwrap();
        }),
        ("a window", |host| fs::write(host.partition.root.join("svc/data/vm/wayland"), "").unwrap()),
        ("an image", |host| {
            let image = host.partition.root.join("svc/data/vm/blk/root.img");
            with_time_put_back(&image, || fs::write(&image, b"+").unwrap());
        }),
        ("a shared directory with VM directories", |host| {
            fs::create_dir_all(host.partition.root.join("shares/one/svc/data")).unwrap();
        }),
        ("where a link leads", |host| {
            let link = host.partition.root.join("svc/data/vm/shared-dirs/files/dir");
            fs::create_dir(host.partition.root.join("shares/two")).unwrap();
            fs::remove_file(&link).unwrap();
            symlink("/ext/shares/two", &link).unwrap();
        }),
        ("the VM's folder", |host| fs::remove_dir_all(host.state.join("vm")).unwrap()),
        ("the VM's link", |host| fs::remove_file(host.state.join("vm/current")).unwrap()),
        ("a folder of another program", |host| fs::create_dir(host.state.join("theirs")).unwrap()),
        ("the leases", |host| own(host, "leases.json", |path| fs::write(path, "{").unwrap())),
        ("the catalog", |host| own(host, "current/catalog.json", |path| fs::write(path, "{").unwrap())),
        ("a link of the generation", |host| {
            own(host, "current/vms/vm", |path| fs::remove_file(path).unwrap());
        }),
        ("a killed process's package", |host| own(host, "packages/x", |path| fs::create_dir(path).unwrap())),
        ("a manifest", |host| {
            let path = host.state.join("vm/current/share/microvm-spectrum/manifest.json");
            let text = fs::read_to_string(&path).unwrap();
            with_time_put_back(&path, || fs::write(&path, text.replace("vmlinux", "vmlinuz")).unwrap());
        }),
        ("a script", |host| fs::remove_file(host.state.join("vm/current/bin/microvm-run")).unwrap()),
    ];
    let hosts: Vec<_> = changes.iter().map(|_| planted()).collect();
    let same = planted();
    hosts.iter().chain([&same]).for_each(plant);
    for (host, (what, change)) in hosts.iter().zip(changes) {
        change(host);
        let ran = run(&mut host.sync(MEMORY_KIB));
        assert!(!ran.stderr.contains(PLANTED), "{what}: {}", ran.stderr);
    }
    let left = same.state.join(".microvm-spectrum/.leases.json.1.tmp");
    for _ in 0..2 {
        fs::write(&left, "").unwrap();
        let ran = same.synced();
        assert!(!left.exists());
        let notes = [PLANTED, "[vm.\"nowhere\"] is for a VM that the source user does not have"];
        assert!(ran.status == 0 && notes.iter().all(|note| ran.stderr.contains(note)), "{}", ran.stderr);
    }
    // What was asked for is different.
    let mut dry = same.sync(MEMORY_KIB);
    let ran = run(dry.arg("--dry-run"));
    assert!(!ran.stderr.contains(PLANTED), "{}", ran.stderr);
}

#[test]
fn what_is_mounted_in_the_place_of_a_directory_is_noticed() {
    needs!(root("has the same user id with and without mounts of its own"));
    needs!(mounts());
    // The last one is not looked at.
    let places =
        ["svc", "svc/data/vm", "svc/data/vm/blk", "svc/data/vm/shared-dirs/files", "shares/one", "x"];
    let hosts = places.map(|_| planted());
    for (host, place) in hosts.iter().zip(places) {
        let place = host.partition.root.join(place);
        fs::create_dir_all(&place).unwrap();
        // The same files, on the same disk.
        let copied = quiet("cp").arg("-a").arg(&place).arg(host.config.with_file_name("copy")).status();
        assert!(copied.unwrap().success());
        plant(host);
    }
    for (host, place) in hosts.iter().zip(places) {
        let (copy, place) = (host.config.with_file_name("copy"), host.partition.root.join(place));
        let sync = host.sync(MEMORY_KIB);
        let arguments = [copy.as_os_str(), place.as_os_str()].into_iter().chain(words(&sync));
        let ran = run(&mut shell("mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"", arguments));
        let is_believed = ran.stderr.contains(PLANTED);
        assert_eq!(is_believed, place.ends_with("x"), "{}: {}", place.display(), ran.stderr);
    }
}

fn own(host: &Host, path: &str, change: impl FnOnce(&Path)) {
    change(&host.state.join(".microvm-spectrum").join(path));
}

#[test]
fn what_cannot_run_is_reported_each_time() {
    let (host, _) = host();
    fs::create_dir(host.partition.root.join("svc/data/broken")).unwrap();
    settle(&host);
    for _ in 0..2 {
        let ran = host.synced();
        assert!(ran.status == 1 && ran.stderr.contains("broken/vmlinux"), "{}", ran.stderr);
        assert!(parts(&host).unwrap()[0]["round"].is_null());
    }
}

#[test]
fn what_the_host_answers_is_asked_each_time() {
    let (host, _) = host();
    let beside = |name: &str| host.config.with_file_name(name);
    let passt = beside("passt");
    for (name, option) in [("new", "--vhost-user"), ("old", "--nothing")] {
        fs::write(beside(name), format!("#!/bin/sh\necho '  {option}'\n")).unwrap();
        fs::set_permissions(beside(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    copy(beside("new"), &passt);
    let config = fs::read_to_string(&host.config).unwrap();
    let more = format!("passt = '{}'\n[vm.vm]\nuplink = true\n", passt.display());
    fs::write(&host.config, config + &more).unwrap();
    settle_all(&host);
    assert_eq!(host.synced().status, 0);
    copy(beside("old"), &passt);
    let ran = host.synced();
    assert!(ran.status == 1 && ran.stderr.contains("passt"), "{}", ran.stderr);
}

#[test]
fn what_an_earlier_version_remembered_counts_for_nothing() {
    let (host, _) = host();
    settle_all(&host);
    let path = host.state.join(".microvm-spectrum/known.json");
    for text in ["", "\n", "{}\n{}", "{\"version\":1,\"memory\":{},\"tree\":{\"nodes\":[]}}"] {
        fs::write(&path, text).unwrap();
        let ran = host.synced();
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{text}");
        settle_all(&host);
    }
}
