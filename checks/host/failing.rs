// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs that cannot start, or not any more.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::support::installed::Host;
use crate::support::links::client;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

#[test]
fn a_vm_that_cannot_start_says_why_in_its_own_journal() {
    needs!(is_possible());
    let host = Host::new();
    let shared = host.vm_with_share("appvm");
    host.sync();
    let directory = host.machine.path("/srv/P/svc/data/appvm");
    let image = directory.join("blk/root.img");

    // An image that has gone since.
    fs::rename(&image, directory.join("root.img")).unwrap();
    let ran = host.run(&["start", "appvm"]).exits(3);
    ran.complains(&["appvm: /srv/P/svc/data/appvm/blk/root.img: does not exist"]);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("error: /srv/P/svc/data/appvm/blk/root.img: does not exist"), "{journal}");
    assert!(
        journal.contains("microvm-spectrum: appvm: not started: the VM directory has errors"),
        "{journal}"
    );
    // It will be the same the next time, so there is none.
    assert_eq!(host.machine.property("microvm@appvm.service", "NRestarts"), "0");
    assert_eq!(host.state("appvm"), "failed");
    assert!(host.row("appvm")["detail"].as_str().unwrap().contains("root.img: does not exist"));
    fs::rename(directory.join("root.img"), &image).unwrap();
    host.start("appvm");
    host.run(&["stop", "appvm"]).exits(0);

    // A shared directory that has gone: said by another unit, and here, too.
    let away = shared.with_file_name("away");
    fs::rename(&shared, &away).unwrap();
    host.run(&["start", "appvm"]).exits(3);
    let journal = host.machine.journal("microvm@appvm.service");
    let reason =
        "appvm: error: /srv/P/svc/data/appvm/shared-dirs/home/dir: /srv/P/shared-appvm does not exist";
    assert!(journal.contains(reason), "{journal}");
    fs::rename(&away, &shared).unwrap();
    host.start("appvm");
    host.run(&["stop", "appvm"]).exits(0);

    // A state directory that is full, or broken otherwise.
    let folder = "/var/lib/microvms/appvm";
    host.ok(&["mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=2", "full", folder]);
    host.ok(&["ln", "--symbolic", "../.microvm-spectrum/current/vms/appvm", &format!("{folder}/current")]);
    host.run(&["start", "appvm"]).exits(3);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("appvm/booted cannot be written: No space left on device"), "{journal}");
    host.ok(&["umount", folder]);
    host.ok(&["mount", "--bind", "/var/lib/microvms/appvm", "/var/lib/microvms/appvm"]);
    host.ok(&["mount", "-o", "remount,bind,ro", "/var/lib/microvms/appvm"]);
    host.run(&["start", "appvm"]).exits(3);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(
        journal.contains("appvm: /var/lib/microvms/appvm/booted cannot be written: Read-only"),
        "{journal}"
    );
    host.ok(&["umount", "/var/lib/microvms/appvm"]);
    host.start("appvm");
    // Nothing of this VM's troubles was the others' or stays.
    host.run(&["stop", "appvm"]).exits(0);
    wait_for("the end of all helpers", || {
        let units = host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "microvm*"]);
        units.is_empty().then_some(())
    });
}

#[test]
fn a_vm_whose_taps_cannot_be_made_says_so() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("app");
    let nft = host.ok(&["sh", "-c", "readlink -f \"$(command -v nft)\""]);
    host.ok(&["mv", &nft, "/srv/nft"]);
    let unit = "microvm-tap-interfaces@app.service";
    let ran = host.run(&["restart", "app"]).exits(3);
    let ran = ran.complains(&[&format!("app: {unit}: "), "nft", "cannot be executed"]);
    assert!(!ran.stderr.contains("powered off"), "{}", ran.stderr);
    assert_eq!(host.state("app"), "failed");
    let detail = host.row("app")["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with(unit) && detail.contains("nft"), "{detail}");
    host.ok(&["mv", "/srv/nft", &nft]);
    host.start("app");
    assert_eq!(host.row("app")["detail"], serde_json::Value::Null);
}

#[test]
fn a_full_runtime_directory() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    // No further inode: sockets cannot be made. systemd itself goes on.
    host.machine.mkdir("/run/microvm");
    host.machine.mkdir("/run/microvm-virtiofsd");
    let full = |directory: &str| {
        host.ok(&["mount", "-t", "tmpfs", "-o", "mode=755,nr_inodes=2", "full", directory]);
    };
    full("/run/microvm-virtiofsd");
    host.run(&["start", "appvm"]).exits(3);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("No space left on device"), "{journal}");
    host.run(&["stop", "appvm"]).exits(0);
    host.ok(&["umount", "--lazy", "/run/microvm-virtiofsd"]);
    // A VM's runtime directory is a file system of its own.
    full("/run/microvm");
    host.start("appvm");
}

#[test]
fn a_vm_that_fails_again_and_again_is_given_up() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    // A monitor that ends immediately, and a pause that a test can wait for.
    host.machine.write("/usr/local/bin/broken", "#!/bin/sh\necho 'no such machine' >&2\nexit 1\n");
    fs::set_permissions(host.machine.path("/usr/local/bin/broken"), fs::Permissions::from_mode(0o755))
        .unwrap();
    host.machine.write("/etc/systemd/system/microvm@.service.d/fast.conf", "[Service]\nRestartSec=10ms\n");
    let config = host.machine.read("/etc/microvm-spectrum/config.toml");
    let broken = config
        .replace(&format!("'{}'", crate::support::guest::part("QEMU").display()), "'/usr/local/bin/broken'");
    assert_ne!(config, broken);
    host.machine.write("/etc/microvm-spectrum/config.toml", &broken);
    host.sync();
    host.run(&["start", "appvm"]).exits(3).complains(&["no such machine"]);
    wait_for("systemd to give up", || {
        (host.machine.property("microvm@appvm.service", "ActiveState") == "failed").then_some(())
    });
    let restarts: u32 = host.machine.property("microvm@appvm.service", "NRestarts").parse().unwrap();
    assert!((5..=20).contains(&restarts), "{restarts}");
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("did not start: qemu ended with exit status: 1 before it answered; its last words: no such machine"), "{journal}");
    assert_eq!(host.state("appvm"), "failed");
    // A user who wants it now gets it, once it can.
    host.machine.write("/etc/microvm-spectrum/config.toml", &config);
    host.sync();
    host.start("appvm");
}

#[test]
fn what_the_vms_user_cannot_read_is_an_error_at_sync() {
    needs!(is_possible());
    let host = Host::new();
    let secret = host.vm("secret");
    host.vm("appvm");
    fs::remove_file(secret.join("blk/root.img")).unwrap();
    fs::copy(crate::support::guest::part("ROOT"), secret.join("blk/root.img")).unwrap();
    fs::set_permissions(secret.join("blk/root.img"), fs::Permissions::from_mode(0o600)).unwrap();
    let ran = host.run(&["sync"]).exits(1);
    ran.complains(&[
        "error: /srv/P/svc/data/secret/blk/root.img: cannot be opened: Permission denied (os error 13) (as user ",
        "help: let others read it",
    ]);
    assert_eq!(host.state("secret"), "broken");
    host.run(&["start", "secret"]).exits(1).complains(&["Permission denied", "secret cannot run"]);
    // The other is installed nevertheless.
    host.start("appvm");
    // It need not be everybody's.
    let uid = 70_001;
    assert_eq!(host.row("appvm")["uid"], 70_000);
    chown(secret.join("blk/root.img"), Some(uid), None).unwrap();
    host.sync();
    assert_eq!(host.row("secret")["uid"], uid);
    host.start("secret");
    // Units do not see files in /tmp, which is worth knowing before.
    host.machine.mkdir("/tmp/P/svc/data");
    host.configure("[[source]]\nkind = 'user-partition'\nname = 'tmp'\npath = '/tmp/P'\n");
    host.ok(&["cp", "--archive", "/srv/P/svc/data/appvm", "/tmp/P/svc/data/in-tmp"]);
    host.ok(&["cp", "/srv/P/vmlinux", "/srv/P/root.img", "/tmp/P"]);
    let ran = host.run(&["sync"]).exits(1);
    ran.complains(&["error: /tmp/P: lies in a directory for temporary files"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error_at_sync_and_at_start() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.vm("other");
    host.configure("[vm.appvm]\ndevices = ['fffe:01:00.0']\n");
    let ran = host.run(&["sync"]).exits(1);
    ran.complains(&[
        "error: /sys/bus/pci/devices/fffe:01:00.0: does not exist: this host has no such device",
    ]);
    assert_eq!((host.state("appvm").as_str(), host.state("other").as_str()), ("broken", "stopped"));
    // For a host that is prepared elsewhere sync cannot know.
    host.run(&["sync", "--no-systemd"]).exits(0);
    host.ok(&["systemctl", "daemon-reload"]);
    let allowed = host.machine.property("microvm@appvm.service", "DeviceAllow");
    for device in ["/dev/vfio/vfio rw", "char-vfio rw"] {
        assert!(allowed.contains(device), "{allowed}");
        assert!(!host.machine.property("microvm@other.service", "DeviceAllow").contains(device));
    }
    host.run(&["start", "appvm"]).exits(3);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("appvm: error: /sys/bus/pci/devices/fffe:01:00.0: does not exist"), "{journal}");
    // It was never this VM's, so there is nothing to take back.
    assert_eq!(host.machine.property("microvm-pci-devices@appvm.service", "ExecMainStatus"), "3");
}
