// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Several VMs, several users, and virtiofsd that another process started.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::support::guest::GUEST_USER;
use crate::support::program::{PROGRAM, copy};
use crate::support::running_vm::{Place, Running};
use crate::support::skip::{needs, root};
use crate::support::tree::names;
use crate::support::waiting::{PATIENCE, wait_for};

#[test]
fn two_vms_in_one_directory_do_not_disturb_each_other() {
    let place = Place::new();
    let run = place.run_directory("run");
    place.shared("home");
    let packages =
        ["twin-a", "twin-b"].map(|name| place.build(&place.vm(name).share("home", "/ext/home"), &[]));
    for _ in 0..2 {
        let [mut a, mut b] = packages.each_ref().map(|package| Running::start(package, &run));
        a.wait_until_up();
        b.wait_until_up();
        let (mut shell_a, mut shell_b) = (a.console(), b.console());
        shell_a.run("mount-share home /mnt; echo a >/mnt/from-a");
        assert_eq!(shell_b.run("mount-share home /mnt; cat /mnt/from-a"), "a");
        drop((shell_a, shell_b));
        // The same VM a second time is refused, and harms nothing.
        let second = Running::start(&packages[0], &run);
        let messages = second.messages.clone();
        wait_for("the refusal", || messages.text().contains("runs in this directory already").then_some(()));
        drop(second);
        assert!(a.shutdown().success());
        let mut shell = b.console();
        assert_eq!(shell.run("echo still here"), "still here");
        drop(shell);
        let before = b.messages.text();
        assert!(!before.contains("powered off"));
        b.signal("TERM");
        for (vm, name) in [(a, "twin-a"), (b, "twin-b")] {
            let mut ended = vm.end();
            // The other one may still be there.
            ended.files.retain(|file| file.starts_with(name));
            ended.assert(0, "the guest powered off");
        }
        assert_eq!(names(&run), [""; 0]);
    }
}

#[test]
fn another_program_may_run_virtiofsd() {
    let place = Place::new();
    place.shared("home");
    place.shared("more");
    let vm = place.vm("served").share("home", "/ext/home").share("more", "/ext/more");
    let package = place.build(&vm, &[]);
    let run = place.run_directory("run");
    let path = place.dir.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(package.join("bin/virtiofsd-run"));
    command.env("NOTIFY_SOCKET", &path).current_dir(&run);
    let mut servers = Running::spawn(&package, &run, command);
    // systemd gets its READY=1 when all sockets listen.
    let mut told = [0; 64];
    let length = notify.recv(&mut told).unwrap();
    assert_eq!(String::from_utf8_lossy(&told[..length]).trim_end(), "READY=1");
    for index in 0..2 {
        assert!(run.join(format!("served.virtiofs-{index}.sock")).exists());
    }
    wait_for("both servers", || (servers.count("--shared-dir") >= 2).then_some(()));
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    assert_eq!(running.count("virtiofsd"), 0, "there are servers already");
    let mut shell = running.console();
    assert_eq!(shell.run("mount-share more /mnt; cat /mnt/from-host"), "hello from the host");
    drop(shell);
    running.signal("TERM");
    let mut ended = running.end();
    ended.files.retain(|file| !file.contains("virtiofs"));
    ended.assert(0, "the guest powered off");
    // The servers end with their VM, in good order.
    let ended = servers.end();
    assert_eq!((ended.messages.as_str(), ended.files.len()), ("", 0));

    // And by a signal, without one.
    let mut servers = Running::script(&package, "virtiofsd-run", &run, &[]);
    wait_for("both servers", || (servers.count("--shared-dir") >= 2).then_some(()));
    servers.signal("TERM");
    assert_eq!(servers.end().files, [""; 0]);
}

#[test]
fn an_ordinary_user_needs_no_set_up() {
    needs!(root("can become an ordinary user"));
    let place = Place::new();
    // Where that user can execute them.
    let own = place.dir.path().join("microvm-spectrum");
    copy(PROGRAM, &own);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    let shared = place.shared("home");
    let vm = place.vm("user").share("home", "/ext/home");
    let tool = format!("microvm-spectrum={}", own.display());
    let package = place.build(&vm, &["--tool", &tool]);
    let run = place.run_directory("run");
    chown(&run, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    let id = GUEST_USER.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .arg(package.join("bin/microvm-run"));
    command.current_dir(&run);
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    // Its sockets are for this user alone.
    for socket in ["user.control.sock", "user.console.sock", "user.virtiofs-0.sock"] {
        let found = fs::metadata(run.join(socket)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o077), (GUEST_USER, 0), "{socket}");
    }
    let mut shell = running.console();
    assert_eq!(
        shell.run("mount-share home /mnt; cat /mnt/from-host; echo new >/mnt/new; ls -ln /mnt/new | awk '{ print $3, $4 }'"),
        "hello from the host\n0 0"
    );
    drop(shell);
    assert_eq!(fs::metadata(shared.join("new")).unwrap().uid(), GUEST_USER);
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn names_that_contain_each_other_do_not_collide() {
    let place = Place::new();
    let run = place.run_directory("run");
    let packages = ["tw", "tw.control"].map(|name| place.build(&place.vm(name), &[]));
    let mut vms = packages.each_ref().map(|package| Running::start(package, &run));
    vms.iter_mut().for_each(Running::wait_until_up);
    for vm in &vms {
        assert!(vm.shutdown().success());
    }
    for vm in vms {
        vm.end().assert(0, "the guest powered off");
    }
}

#[test]
fn another_users_server_is_not_trusted() {
    needs!(root("can be two users"));
    let place = Place::new();
    place.shared("home");
    let package = place.build(&place.vm("foreign").share("home", "/ext/home"), &[]);
    let run = place.run_directory("run");
    let socket = run.join("foreign.virtiofs-0.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    chown(&socket, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    let mut ended = Running::start(&package, &run).end();
    ended.files.retain(|file| !file.contains("virtiofs"));
    ended.assert(3, "belongs to another user");
}

#[test]
fn the_callers_open_files_stay_its_own() {
    let place = Place::new();
    let package = place.build(&place.vm("files"), &[]);
    let run = place.run_directory("run");
    let secret = place.dir.path().join("secret");
    fs::write(&secret, "").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec 7<\"$1\"; exec \"$0\""]).arg(package.join("bin/microvm-run")).arg(&secret);
    command.current_dir(&run);
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    let open = |pid: u32| -> Vec<_> {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        files.filter_map(|file| fs::read_link(file.unwrap().path()).ok()).collect()
    };
    assert!(!open(running.process("qemu-system")).contains(&secret));
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}
