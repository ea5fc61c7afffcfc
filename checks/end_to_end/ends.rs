// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How a VM's run ends, when the guest or its user ends it.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::support::running_vm::{Place, Running, descendants, kill};
use crate::support::tree::names;
use crate::support::waiting::{PATIENCE, wait_for};

#[test]
fn the_guest_powers_off() {
    let place = Place::new();
    let package = place.build(&place.vm("power-off"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    let mut shell = running.console();
    shell.send("poweroff -f\n");
    running.end().assert(0, "power-off: the guest powered off");
}

#[test]
fn the_guest_reboots_in_place() {
    let place = Place::new();
    place.shared("home");
    let package = place.build(&place.vm("reboot").share("home", "/ext/home"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    let vmm = running.process("qemu-system");
    let mut shell = running.console();
    shell.send("reboot -f\n");
    running.messages.wait_for("reboot: the guest was reset");
    drop(shell);
    running.serial.wait_for_times("guest: ready", 2);
    assert_eq!(running.process("qemu-system"), vmm, "a reboot is a reset in place");
    let mut shell = running.console();
    assert_eq!(shell.run("mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    drop(shell);
    running.signal("TERM");
    let ended = running.end();
    ended.assert(0, "the guest powered off");
    assert_eq!(ended.messages.matches("the guest was reset").count(), 1, "{}", ended.messages);
}

#[test]
fn the_guest_panics() {
    let place = Place::new();
    let package = place.build(&place.vm("panic"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    let mut shell = running.console();
    shell.send("kill -USR1 1\n");
    let ended = running.end();
    ended.assert(4, "panic: the guest's kernel panicked");
    assert!(ended.serial.contains("Kernel panic"), "{}", ended.serial);
}

#[test]
fn every_signal_to_stop_presses_the_power_button() {
    let place = Place::new();
    let package = place.build(&place.vm("signals"), &[]);
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let mut running = Running::start(&package, &place.run_directory(signal));
        running.wait_until_up();
        running.signal(signal);
        let ended = running.end();
        ended.assert(0, "the guest powered off");
        assert!(ended.serial.contains("guest: power button"), "{}", ended.serial);
    }
}

#[test]
fn a_stop_during_boot_waits_for_the_guest() {
    let place = Place::new();
    let package = place.build(&place.vm("early"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.serial.wait_for("Linux version");
    running.look();
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_guest_that_does_not_react_is_killed() {
    let place = Place::new();
    let package = place.build(&place.vm("deaf"), &[]);
    for twice in [false, true] {
        let run = place.run_directory(if twice { "twice" } else { "once" });
        let timeout = if twice { "600" } else { "2" };
        let mut running = Running::script(&package, "microvm-run", &run, &["--stop-timeout", timeout]);
        running.wait_until_up();
        let mut shell = running.console();
        // The guest's process that waits for the power button.
        shell.run("until killall -STOP head; do :; done");
        drop(shell);
        let begun = Instant::now();
        running.signal("TERM");
        if twice {
            running.messages.wait_for("stopping");
            running.signal("TERM");
        }
        let ended = running.end();
        ended.assert(8, if twice { "a second signal" } else { "the guest did not power off within 2 s" });
        assert!(twice || begun.elapsed() >= Duration::from_secs(2));
    }
}

#[test]
fn shutdown_gives_up_in_words_and_is_harmless_without_a_vm() {
    let place = Place::new();
    let package = place.build(&place.vm("stubborn"), &[]);
    let run = place.run_directory("run");
    let shutdown = |arguments: &[&str]| {
        let script = package.join("bin/microvm-shutdown");
        let output = Command::new(script).args(arguments).current_dir(&run).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, said) = shutdown(&[]);
    assert_eq!(status, Some(0));
    assert!(said.contains("stubborn does not run in this directory"), "{said}");
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    let mut shell = running.console();
    // The guest's process that waits for the power button.
    shell.run("until killall -STOP head; do :; done");
    drop(shell);
    let (status, said) = shutdown(&["--timeout", "1"]);
    assert_eq!(status, Some(3));
    assert!(said.contains("stubborn still runs after 1 s"), "{said}");
    running.signal("TERM");
    running.signal("TERM");
    running.end().assert(8, "killed");
}

#[test]
fn systemd_is_told_when_the_vm_runs() {
    let place = Place::new();
    let package = place.build(&place.vm("notifier"), &[]);
    let run = place.run_directory("run");
    let path = place.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(package.join("bin/microvm-run"));
    command.env("NOTIFY_SOCKET", &path).current_dir(&run);
    let mut running = Running::spawn(&package, &run, command);
    let receive = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let told = receive();
    assert!(told.contains("READY=1"), "{told}");
    // READY means that the control socket answers.
    assert!(run.join("notifier.control.sock").exists());
    running.wait_until_up();
    running.signal("TERM");
    assert!(receive().contains("STOPPING=1"));
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_the_vm() {
    let place = Place::new();
    let package = place.build(&place.vm("unread"), &[]);
    let run = place.run_directory("run");
    let (_unread, pipe) = std::io::pipe().unwrap();
    let from_supervisor = pipe.try_clone().unwrap();
    let mut child = Command::new(package.join("bin/microvm-run"))
        .args(["--stop-timeout", "3"])
        .current_dir(&run)
        .stdout(pipe.try_clone().unwrap())
        .stderr(pipe)
        .spawn()
        .unwrap();
    wait_for("the console", || run.join("unread.console.sock").exists().then_some(()));
    let mut console = wait_for("a guest that answers", || {
        let mut console = Command::new(package.join("bin/microvm-console"))
            .current_dir(&run)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut input = console.stdin.take().unwrap();
        input.write_all(b"echo up; while :; do printf aaaaaaaaaaaaaaaa; done >/dev/console\n").unwrap();
        let mut answer = [0; 64];
        std::thread::sleep(Duration::from_secs(2));
        (console.stdout.as_mut().unwrap().read(&mut answer).unwrap() > 0).then_some(console)
    });
    // Until the pipes on the way are full, to the supervisor and from it.
    let of_vmm = wait_for("the VMM", || {
        descendants(child.id()).into_iter().find_map(|(process, _)| {
            std::fs::File::options().write(true).open(format!("/proc/{process}/fd/1")).ok()
        })
    });
    let is_full = |pipe: BorrowedFd<'_>| {
        let mut polled = [PollFd::from_borrowed_fd(pipe, PollFlags::OUT)];
        (rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap() == 0).then_some(())
    };
    wait_for("a full pipe from the supervisor", || is_full(from_supervisor.as_fd()));
    wait_for("a full pipe from the VMM", || is_full(of_vmm.as_fd()));
    drop((of_vmm, from_supervisor));
    kill(child.id(), "TERM");
    let status = wait_for("the end of the supervisor", || child.try_wait().unwrap());
    let _ = console.kill().and_then(|()| console.wait());
    assert_eq!(status.code(), Some(8), "{status}");
    assert_eq!(names(&run), [""; 0]);
}

#[test]
fn a_time_out_that_makes_no_sense_is_refused() {
    let place = Place::new();
    let package = place.build(&place.vm("for-ever"), &[]);
    let run = place.run_directory("run");
    for (script, option) in [("microvm-run", "--stop-timeout"), ("microvm-shutdown", "--timeout")] {
        let ended = Running::script(&package, script, &run, &[option, "18446744073709551615"]).end();
        assert!(ended.messages.contains("18446744073709551615 is not in 0..=31536000"), "{}", ended.messages);
    }
}

#[test]
fn one_console_at_a_time_and_the_terminal_is_restored() {
    let place = Place::new();
    let package = place.build(&place.vm("terminal"), &[]);
    let run = place.run_directory("run");
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    let mut shell = running.console();
    shell.run("true");
    let second = Command::new(package.join("bin/microvm-console")).current_dir(&run).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another process is attached to the console of terminal already"), "{said}");
    // More than a pipe's reader takes at once.
    let lines = format!("n=$((n + 1)) # {}\n", "x".repeat(150)).repeat(60);
    assert_eq!(shell.run(&format!("n=0\n{lines}echo $n")), "60");
    drop(shell);
    // On a real terminal, ended by a signal.
    let script = place.dir.path().join("attach");
    let text = "before=$(stty -g)
sh -c '(sleep 1; kill -TERM $$) & exec \"$0\"' \"$1\"
test \"$before\" = \"$(stty -g)\" && echo the same\n";
    std::fs::write(&script, text).unwrap();
    let command = format!("sh {} {}", script.display(), package.join("bin/microvm-console").display());
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(&run)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("Ctrl-] detaches"), "{shown}");
    assert!(shown.contains("the same"), "{shown}");
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn an_input_that_ends_ends_the_console() {
    let place = Place::new();
    let package = place.build(&place.vm("piped"), &[]);
    let run = place.run_directory("run");
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    running.console().run("true");
    let console = |text: &[u8]| {
        let input = place.dir.path().join("input");
        std::fs::write(&input, text).unwrap();
        Command::new(package.join("bin/microvm-console"))
            .current_dir(&run)
            .stdin(std::fs::File::open(input).unwrap())
            .output()
            .unwrap()
    };
    let answered = console(b"echo 'an''swer'\n");
    assert_eq!((answered.status.code(), answered.stderr), (Some(0), Vec::new()));
    assert!(String::from_utf8_lossy(&answered.stdout).contains("answer"));
    assert_eq!(console(b"").status.code(), Some(0));
    let vmm = running.process("qemu-system");
    kill(vmm, "STOP");
    let missed = console(b"echo\n");
    assert_eq!((missed.status.code(), missed.stdout), (Some(0), Vec::new()));
    let said = String::from_utf8(missed.stderr).unwrap();
    assert!(said.contains("nothing answers on the console of piped"), "{said}");
    kill(vmm, "CONT");
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_guest_that_does_not_read_keeps_no_console() {
    let place = Place::new();
    let package = place.build(&place.vm("stuck"), &[]);
    let run = place.run_directory("run");
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    let vmm = running.process("qemu-system");
    running.console().run("true");
    kill(vmm, "STOP");
    let input = place.dir.path().join("input");
    std::fs::write(&input, vec![b'x'; 4 << 20]).unwrap();
    let mut console = Command::new(package.join("bin/microvm-console"))
        .current_dir(&run)
        .stdin(std::fs::File::open(input).unwrap())
        .spawn()
        .unwrap();
    // It has typed ahead as far as it may.
    std::thread::sleep(Duration::from_secs(1));
    kill(console.id(), "TERM");
    let status = wait_for("the end of the console", || console.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    kill(vmm, "CONT");
    running.signal("TERM");
    running.end().assert(0, "the guest powered off");
}
