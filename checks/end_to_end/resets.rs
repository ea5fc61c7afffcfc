// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs with windows: each reset of the guest gives it a new VMM, with all that the guest had.
//!
//! The QEMU of most distributions has no device for windows, so a script takes the device
//! out of the arguments of this one; everything else is real.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::guest::part;
use crate::support::program::WITHOUT_THE_DEVICE;
use crate::support::running_vm::{Place, Running, kill};
use crate::support::vm_directory::VmDirectory;
use crate::support::waiting::wait_for;

/// A QEMU whose guest is reset as soon as its supervisor has connected.
const ALWAYS_RESET: &str = r#"#!/usr/bin/perl
use IO::Socket::UNIX;
$| = 1;
if ("@ARGV" =~ /-device help/) { print qq(name "virtio-gpu-rutabaga-pci", bus PCI\n); exit }
open(my $log, '>>', 'starts'); print $log "start\n"; close $log;
my $listener = IO::Socket::UNIX->new(Local => 'looping.supervisor.sock', Listen => 1) or die;
my $client = $listener->accept; $client->autoflush(1);
print $client qq({"QMP": {}}\n); <$client>;
print $client qq({"return": {}}\n{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}\n);
"#;

fn script(place: &Place, text: &str) -> String {
    let path = place.dir.path().join("qemu");
    fs::write(&path, text.replace("QEMU", part("QEMU").to_str().unwrap())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("qemu-system-x86_64={}", path.display())
}

/// Builds the package of a VM with windows.
fn build(place: &Place, vm: VmDirectory, stand_in: &str) -> PathBuf {
    let vm = vm.file("wayland", b"");
    place.build(&vm, &["--tool", &script(place, stand_in)])
}

/// Runs `microvm-run` in a session whose compositor is at `socket`.
fn start(package: &Path, run: &Path, socket: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(package.join("bin/microvm-run"));
    command.args(arguments).current_dir(run).env("WAYLAND_DISPLAY", socket);
    Running::spawn(package, run, command)
}

fn compositor(place: &Place) -> (UnixListener, PathBuf) {
    let path = place.dir.path().join("compositor");
    (UnixListener::bind(&path).unwrap(), path)
}

#[test]
fn a_reset_gives_the_guest_a_new_vmm_with_its_shares() {
    let place = Place::new();
    place.shared("home");
    let package = build(&place, place.vm("reset").share("home", "/ext/home"), WITHOUT_THE_DEVICE);
    let run = place.run_directory("run");
    let (_compositor, socket) = compositor(&place);
    let mut running = start(&package, &run, &socket, &[]);
    running.wait_until_up();
    assert_eq!(fs::read_link(run.join("reset.wayland.sock")).unwrap(), socket);
    for boots in 2..4 {
        let vmm = running.process("qemu-system");
        let mut shell = running.console();
        shell.send("mount-share home /mnt; reboot -f\n");
        running.messages.wait_for_times("reset: the guest was reset", boots - 1);
        drop(shell);
        running.serial.wait_for_times("guest: ready", boots);
        assert_ne!(running.process("qemu-system"), vmm, "it is the same VMM");
        let mut shell = running.console();
        assert_eq!(shell.run("mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    }
    running.signal("TERM");
    let ended = running.end();
    ended.assert(0, "the guest powered off");
    assert_eq!(ended.messages.matches("running in qemu").count(), 3, "{}", ended.messages);
}

#[test]
fn a_reset_waits_for_shares_that_another_process_serves() {
    let place = Place::new();
    place.shared("home");
    let package = build(&place, place.vm("served").share("home", "/ext/home"), WITHOUT_THE_DEVICE);
    let run = place.run_directory("run");
    let mut servers = Running::script(&package, "virtiofsd-run", &run, &[]);
    wait_for("the server", || (servers.count("--shared-dir") >= 1).then_some(()));
    let (_compositor, socket) = compositor(&place);
    let mut running = start(&package, &run, &socket, &["--external-virtiofsd"]);
    running.wait_until_up();
    let mut shell = running.console();
    shell.send("mount-share home /mnt; reboot -f\n");
    running.messages.wait_for("served: the guest was reset");
    drop(shell);
    running.serial.wait_for_times("guest: ready", 2);
    let mut shell = running.console();
    assert_eq!(shell.run("mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    drop(shell);
    running.signal("TERM");
    let mut ended = running.end();
    ended.files.retain(|file| !file.contains("virtiofs"));
    ended.assert(0, "the guest powered off");
    let ended = servers.end();
    assert_eq!((ended.messages.as_str(), ended.files.len()), ("", 0));
}

#[test]
fn a_guest_that_is_reset_again_and_again_is_slowed_down_and_can_be_stopped() {
    let place = Place::new();
    let package = build(&place, place.vm("looping"), ALWAYS_RESET);
    let run = place.run_directory("run");
    let began = Instant::now();
    let (_compositor, socket) = compositor(&place);
    let running = start(&package, &run, &socket, &[]);
    running.messages.wait_for_times("looping: the guest was reset", 4);
    let starts = fs::read_to_string(run.join("starts")).unwrap().lines().count() as u64;
    assert!(starts <= began.elapsed().as_secs() + 1, "{starts} starts in {:?}", began.elapsed());
    running.signal("TERM");
    let mut ended = running.end();
    ended.files.retain(|file| file != "starts");
    ended.assert(0, "the guest powered off");
}

#[test]
fn a_vmm_that_stops_to_answer_can_be_stopped() {
    let place = Place::new();
    let package = build(&place, place.vm("blocked"), WITHOUT_THE_DEVICE);
    let run = place.run_directory("run");
    let (_compositor, socket) = compositor(&place);
    let mut running = start(&package, &run, &socket, &["--stop-timeout", "2"]);
    running.wait_until_up();
    // As one whose main loop waits for a compositor that does not read.
    kill(running.process("qemu-system"), "STOP");
    let script = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(package.join("bin").join(name));
        command.args(arguments).current_dir(&run).stdin(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let ran = script("microvm-shutdown", &["--timeout", "2"]).wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("still runs after 2 s"), "{ran:?}");
    // The kernel attaches the console; whoever waits there can leave.
    let mut console = script("microvm-console", &[]);
    wait_for("the console", || run.join("blocked.console.lock").exists().then_some(()));
    kill(console.id(), "TERM");
    wait_for("the end of the console", || console.try_wait().unwrap());
    running.signal("TERM");
    running.end().assert(8, "the guest did not power off within 2 s");
}

#[test]
fn windows_need_a_compositor_unless_told_otherwise() {
    let place = Place::new();
    let package = build(&place, place.vm("alone"), WITHOUT_THE_DEVICE);
    let run = place.run_directory("run");
    let socket = place.dir.path().join("compositor");
    let why = "not started: the host lacks what the VM needs";
    let none = || {
        let mut command = Command::new(package.join("bin/microvm-run"));
        command.current_dir(&run).env_remove("WAYLAND_DISPLAY").env_remove("XDG_RUNTIME_DIR");
        command
    };
    let ended = Running::spawn(&package, &run, none()).end();
    ended.assert(3, why);
    assert!(
        ended.messages.contains("neither WAYLAND_DISPLAY nor XDG_RUNTIME_DIR names one"),
        "{}",
        ended.messages
    );
    let refused = |what: &str| {
        let ended = start(&package, &run, &socket, &[]).end();
        ended.assert(3, why);
        let told = format!("error: {}: no Wayland compositor can be reached there: {what}", socket.display());
        assert!(ended.messages.contains(&told), "{}", ended.messages);
        assert!(ended.messages.contains("--without-compositor"), "{}", ended.messages);
    };
    refused("No such file");
    drop(UnixListener::bind(&socket).unwrap());
    refused("Connection refused");
    fs::remove_file(&socket).unwrap();

    let mut command = none();
    command.arg("--without-compositor");
    let running = Running::spawn(&package, &run, command);
    running.messages.wait_for("alone: there is no Wayland compositor, the guest shows no windows");
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");

    let mut running = start(&package, &run, &socket, &["--without-compositor"]);
    running.messages.wait_for("alone: there is no Wayland compositor");
    let compositor = UnixListener::bind(&socket).unwrap();
    running.messages.wait_for("alone: a Wayland compositor is there, the guest can show windows");
    drop(compositor);
    running.messages.wait_for_times("alone: there is no Wayland compositor", 2);
    // The guest runs on.
    running.wait_until_up();
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");

    // A link that is there is another's, and stays.
    let link = run.join("alone.wayland.sock");
    std::os::unix::fs::symlink("/elsewhere", &link).unwrap();
    let running = start(&package, &run, &socket, &["--without-compositor"]);
    running.messages.wait_for("alone: running in qemu");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("/elsewhere"));
    running.signal("TERM");
    let mut ended = running.end();
    ended.files.retain(|file| file != "alone.wayland.sock");
    ended.assert(0, "the guest powered off");
    assert!(link.is_symlink());
}
