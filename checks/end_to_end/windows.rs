// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Windows of guests on a real compositor, whose pictures are counted.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::compositor::{Compositor, DISPLAY};
use crate::support::guest::{GUEST_USER, part};
use crate::support::program::{PROGRAM, copy};
use crate::support::running_vm::{Place, Running};
use crate::support::skip::{needs, root};
use crate::support::waiting::wait_for;

/// Builds the package of a VM that shows windows.
fn package(place: &Place, name: &str) -> PathBuf {
    let qemu = format!("qemu-system-x86_64={}", part("RUTABAGA_QEMU").display());
    place.build(&place.vm(name).file("wayland", b""), &["--tool", &qemu])
}

/// A call of `microvm-run` in the session of this `XDG_RUNTIME_DIR`.
fn run_in_session(package: &Path, run: &Path, runtime: &Path) -> Command {
    let mut command = Command::new(package.join("bin/microvm-run"));
    command.current_dir(run).env("XDG_RUNTIME_DIR", runtime).env("WAYLAND_DISPLAY", DISPLAY);
    command
}

/// A compositor, and a VM that runs in its session until it is up.
fn session(place: &Place, name: &str) -> (Compositor, Running) {
    let compositor = Compositor::start(&place.run_directory("session"));
    let running = start(place, name, &compositor);
    (compositor, running)
}

fn start(place: &Place, name: &str, compositor: &Compositor) -> Running {
    let (package, run) = (package(place, name), place.run_directory(name));
    let command = run_in_session(&package, &run, compositor.runtime());
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    running
}

/// Shows a window of the guest, until `hide`. No job of the shell's: without echo, a job that ends
/// while busybox's shell waits for input ends the shell.
fn show(running: &Running, application: &str) {
    running.console().run(&format!("(show-window show {application} >/tmp/shown 2>&1 &)"));
}

fn hide(running: &Running) {
    running.console().run("killall show-window; while pidof show-window; do sleep 0.1; done");
}

fn power_off(running: Running) {
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_window_of_an_ordinary_user() {
    needs!(root("can become an ordinary user"));
    let place = Place::new();
    let own = place.dir.path().join("microvm-spectrum");
    let qemu = place.dir.path().join("qemu");
    // Where that user can execute them.
    for (from, to) in [(Path::new(PROGRAM), &own), (&part("RUTABAGA_QEMU"), &qemu)] {
        copy(from, to);
        fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let tools =
        [format!("microvm-spectrum={}", own.display()), format!("qemu-system-x86_64={}", qemu.display())];
    let vm = place.vm("user").file("wayland", b"");
    let package = place.build(&vm, &["--tool", &tools[0], "--tool", &tools[1]]);
    let compositor = Compositor::start(&place.run_directory("session"));
    let run = place.run_directory("run");
    for path in [run.clone(), compositor.runtime().to_owned(), compositor.runtime().join(DISPLAY)] {
        chown(path, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    }
    let session = run_in_session(&package, &run, compositor.runtime());
    let id = GUEST_USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs", "--"]);
    command.arg(session.get_program()).current_dir(&run);
    command.envs(session.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    assert_eq!(compositor.pixels(), [0; 4]);
    show(&running, "squares");
    compositor.wait_windows(1);
    running.console().run("until grep -qx 'show-window: shown' /tmp/shown; do sleep 0.1; done");
    hide(&running);
    compositor.wait_windows(0);
    power_off(running);
}

#[test]
fn two_vms_show_windows_together() {
    let place = Place::new();
    let (compositor, a) = session(&place, "left");
    let b = start(&place, "right", &compositor);
    show(&a, "first");
    show(&b, "second");
    compositor.wait_windows(2);
    let mut applications = compositor.application_ids();
    applications.sort();
    assert_eq!(applications, ["first", "second"]);
    // The end of one VM takes its windows away, and no others.
    power_off(a);
    compositor.wait_windows(1);
    assert_eq!(compositor.application_ids(), ["second"]);
    power_off(b);
    compositor.wait_windows(0);
}

#[test]
fn a_compositor_that_comes_back_shows_new_windows() {
    let place = Place::new();
    let (compositor, running) = session(&place, "patient");
    show(&running, "before");
    compositor.wait_windows(1);
    compositor.signal("KILL");
    drop(compositor);
    // The guest runs on, and can try without harm; one program at a time, as QEMU wants it.
    hide(&running);
    show(&running, "meanwhile");
    assert_eq!(running.console().run("echo still here"), "still here");
    let compositor = Compositor::start(&place.dir.path().join("session"));
    hide(&running);
    show(&running, "after");
    compositor.wait_windows(1);
    assert_eq!(compositor.application_ids(), ["after"]);
    power_off(running);
}

#[test]
fn a_guest_that_resets_with_an_open_window_can_open_another() {
    let place = Place::new();
    let (compositor, running) = session(&place, "resetting");
    for boot in 1..=2 {
        running.serial.wait_for_times("guest: ready", boot);
        show(&running, "squares");
        compositor.wait_windows(1);
        if boot == 1 {
            let mut shell = running.console();
            shell.send("reboot -f\n");
            compositor.wait_windows(0);
        }
    }
    power_off(running);
}

#[test]
fn a_compositor_that_reads_nothing_does_not_delay_the_end() {
    let place = Place::new();
    let compositor = Compositor::start(&place.run_directory("session"));
    let (package, run) = (package(&place, "blocked"), place.run_directory("blocked"));
    let mut command = run_in_session(&package, &run, compositor.runtime());
    command.args(["--stop-timeout", "10"]);
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    running.console().run("(show-window show squares >/tmp/shown 2>&1 &)");
    compositor.wait_windows(1);
    compositor.signal("STOP");
    let mut shell = running.console();
    shell.send("show-window flood\n");
    // Linux names the system call of a process only while that sleeps in it.
    let call = format!("/proc/{}/syscall", running.process("virtio-gpu-rutabaga"));
    let sendmsg = "46 ";
    wait_for("QEMU to be blocked", || {
        fs::read_to_string(&call).is_ok_and(|now| now.starts_with(sendmsg)).then_some(())
    });
    let begun = Instant::now();
    running.signal("TERM");
    running.end().assert(8, "the guest did not power off within 10 s");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    compositor.signal("CONT");
    compositor.wait_windows(0);
}

#[test]
fn without_a_compositor_a_vm_starts_only_where_its_user_says_so() {
    let place = Place::new();
    let (package, run) = (package(&place, "early"), place.run_directory("early"));
    let session = place.run_directory("session");
    let refused = Running::spawn(&package, &run, run_in_session(&package, &run, &session)).end();
    refused.assert(3, "the host lacks what the VM needs");
    for said in ["no Wayland compositor", "--without-compositor"] {
        assert!(refused.messages.contains(said), "{}", refused.messages);
    }

    let mut command = run_in_session(&package, &run, &session);
    command.arg("--without-compositor");
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    running.messages.wait_for("no Wayland compositor");
    let compositor = Compositor::start(&session);
    running.messages.wait_for("a Wayland compositor is there");
    show(&running, "late");
    compositor.wait_windows(1);
    power_off(running);
}
