// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How a VM's run ends when something fails: each with its own status.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::guest::part;
use crate::support::running_vm::{Place, Running, assert_all_end, kill};
use crate::support::tree::names;
use crate::support::waiting::wait_for;

#[test]
fn the_vmm_is_killed() {
    let place = Place::new();
    place.shared("home");
    let package = place.build(&place.vm("vmm-killed").share("home", "/ext/home"), &[]);
    let run = place.run_directory("run");
    for signal in ["KILL", "TERM"] {
        let mut running = Running::start(&package, &run);
        running.wait_until_up();
        kill(running.process("qemu-system"), signal);
        let ended = running.end();
        ended.assert(5, "vmm-killed: the virtual machine monitor failed: qemu ended with");
        assert!(signal == "TERM" || ended.messages.contains("signal: 9"), "{}", ended.messages);
    }
}

#[test]
fn virtiofsd_is_killed() {
    let place = Place::new();
    place.shared("home");
    let package = place.build(&place.vm("share-killed").share("home", "/ext/home"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    kill(running.process("virtiofsd"), "KILL");
    running.end().assert(7, "share-killed: the server of the shared directory 'home' ended: signal: 9");
}

#[test]
fn the_supervisor_is_killed() {
    let place = Place::new();
    place.shared("home");
    let package = place.build(&place.vm("orphan").share("home", "/ext/home"), &[]);
    let run = place.run_directory("run");
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    running.signal("KILL");
    assert_all_end(&running);
    drop(running);
    // No process was left to remove the sockets; they are no hindrance.
    assert!(names(&run).contains(&"orphan.control.sock".to_owned()));
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn files_that_changed_since_the_build() {
    let place = Place::new();
    let vm = place.vm("changed").image("extra.img", b"data");
    place.shared("home");
    let vm = vm.share("home", "/ext/home");
    let package = place.build(&vm, &[]);
    let run = place.run_directory("run");
    let secret = place.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let refused = |path: &str, cause: &str| {
        let ended = Running::start(&package, &run).end();
        ended.assert(1, "changed: not started: the VM directory has errors");
        let shown = vm.path.join(path).display().to_string();
        let found = ended.messages.lines().find(|l| l.starts_with("error: ")).unwrap();
        assert!(found.contains(&shown) && found.contains(cause), "{found}");
        assert!(ended.messages.contains("  help: "), "{}", ended.messages);
    };
    let image = vm.path.join("blk/extra.img");
    fs::remove_file(&image).unwrap();
    refused("blk/extra.img", "does not exist");
    symlink(&secret, &image).unwrap();
    refused("blk/extra.img", "outside of the places where links may lead");
    fs::remove_file(&image).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &image, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    refused("blk/extra.img", "not a regular file");
    fs::remove_file(&image).unwrap();
    fs::write(&image, "data").unwrap();
    let share = vm.path.join("shared-dirs/home/dir");
    for (target, cause) in [
        (place.dir.path().to_str().unwrap(), "outside of the places"),
        ("/ext/svc/data", "the guest could rewrite VM definitions"),
        ("/ext", "the guest could rewrite VM definitions"),
        ("/ext/home/from-host", "does not lead to a directory"),
    ] {
        fs::remove_file(&share).unwrap();
        symlink(target, &share).unwrap();
        refused("shared-dirs/home/dir", cause);
    }
    // What is allowed may change: the directory is what counts.
    fs::remove_file(&share).unwrap();
    place.shared("other");
    symlink("/ext/other", &share).unwrap();
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn the_vmm_does_not_start() {
    let place = Place::new();
    let vm = place.vm("no-start");
    let run = place.run_directory("run");
    for (tool, line) in [
        ("qemu-system-x86_64=/bin/false".to_owned(), "qemu ended with exit status: 1 before it answered"),
        (
            "qemu-system-x86_64=/nonexistent/qemu".to_owned(),
            "/nonexistent/qemu cannot be started: No such file",
        ),
        // It takes none of our options, and says so.
        ("qemu-system-x86_64=/bin/ls".to_owned(), "its last words: Try"),
    ] {
        let package = place.build(&vm, &["--force", "--tool", &tool]);
        let ended = Running::start(&package, &run).end();
        ended.assert(6, "no-start: the virtual machine monitor did not start: ");
        assert!(ended.messages.contains(line), "{}", ended.messages);
    }
}

#[test]
fn virtiofsd_does_not_start() {
    let place = Place::new();
    place.shared("home");
    let vm = place.vm("no-share").share("home", "/ext/home");
    let run = place.run_directory("run");
    let package = place.build(&vm, &["--tool", "virtiofsd=/nonexistent/virtiofsd"]);
    Running::start(&package, &run).end().assert(3, "/nonexistent/virtiofsd cannot be started");
    let package = place.build(&vm, &["--force", "--tool", "virtiofsd=/bin/false"]);
    Running::start(&package, &run).end().assert(7, "the server of the shared directory 'home' ended");
}

#[test]
fn a_vmm_that_never_answers_can_be_stopped() {
    let place = Place::new();
    let silent = place.dir.path().join("silent");
    fs::write(&silent, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&silent, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let tool = format!("qemu-system-x86_64={}", silent.display());
    let package = place.build(&place.vm("silent"), &["--tool", &tool]);
    let run = place.run_directory("run");
    let mut running = Running::script(&package, "microvm-run", &run, &["--stop-timeout", "1"]);
    wait_for("the stand-in", || (running.count("sleep") > 0).then_some(()));
    running.signal("TERM");
    running.end().assert(8, "the guest did not power off within 1 s");
}

#[test]
fn a_package_that_is_none() {
    let place = Place::new();
    let package = place.build(&place.vm("broken"), &[]);
    let run = place.run_directory("run");
    let manifest = package.join("share/microvm-spectrum/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for (replacement, cause) in [
        ("{}".to_owned(), "is not a manifest"),
        (text.replace("\"version\": 1", "\"version\": 7"), "has version 7, this program reads version 1"),
    ] {
        fs::write(&manifest, replacement).unwrap();
        Running::start(&package, &run).end().assert(1, cause);
    }
    assert!(part("QEMU").exists());
}
