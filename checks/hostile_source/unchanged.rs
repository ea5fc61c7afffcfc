// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What looks as it was and is not: `sync` reads only what has changed, and nobody who writes
//! to a partition decides what that is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bounded_sync::Host;
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

fn settle(host: &Host) {
    wait_for("sync remembers the VM and its package", || {
        host.synced();
        let known: Value = serde_json::from_str(&remembered(host)).ok()?;
        let has_vm = known["memory"]["partitions"][0]["vms"].get("svc/data/vm").is_some();
        (has_vm && known["packages"]["of_vms"].get("user/vm").is_some()).then_some(())
    });
}

/// The state of the VM, and the stamps of its files.
fn state(host: &Host) -> (String, Value) {
    let catalog = fs::read_to_string(host.state.join(".microvm-spectrum/current/catalog.json")).unwrap();
    let catalog: Value = serde_json::from_str(&catalog).unwrap();
    let vm = &catalog["vms"][0];
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
    settle(&host);
    let unchanged = remembered(&host);
    assert_eq!((host.synced().status, remembered(&host)), (0, unchanged));
    assert_eq!(state(&host).0, "runnable");
    // It really is not read: what is remembered of it is believed.
    let path = host.state.join(".microvm-spectrum/known.json");
    fs::write(&path, remembered(&host).replace("blk/root.img\"", "blk/other.img\"")).unwrap();
    host.synced();
    let (_, stamps) = state(&host);
    assert!(stamps.to_string().contains("blk/other.img"), "{stamps}");
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
        &|| with_time_put_back(&run, || fs::write(&run, vec![b'x'; before.0.len()]).unwrap()),
        &|| fs::remove_file(&system).unwrap(),
        &|| fs::remove_dir_all(&package).unwrap(),
    ];
    for damage in damages {
        settle(&host);
        damage();
        assert_ne!(now(), before);
        host.synced();
        assert_eq!(now(), before);
    }
}
