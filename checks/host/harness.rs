// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Tests of the test harness, not of the program: machines (`checks/systemd-box`) are
//! apart, end and leave nothing behind, and terminals show what a program does to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::skip::needs;
use crate::support::systemd_machine::{Machine, is_possible};
use crate::support::terminal::Terminal;
use crate::support::waiting::wait_for;

/// The processes that live in this namespace for process numbers.
fn processes_in(namespace: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    processes
        .filter(|process| fs::read_link(process.join("ns/pid")).is_ok_and(|found| found == namespace))
        .map(|process| fs::read_to_string(process.join("comm")).unwrap_or_default())
        .collect()
}

/// The control group of a machine, where the host shows those of its kind.
fn control_group(machine: &Machine) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let root = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
        [_, path, "cgroup2", ..] => Some(path),
        _ => None,
    })?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", machine.pid)).unwrap();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Some(Path::new(root).join(group.split_once("/init.scope").unwrap().0))
}

#[test]
fn a_machine_is_apart_and_leaves_nothing_behind() {
    needs!(is_possible());
    let machine = Machine::boot();
    let namespace = fs::read_link(format!("/proc/{}/ns/pid", machine.pid)).unwrap();
    let group = control_group(&machine);

    // Its processes, devices, network and files are its own.
    assert_eq!(machine.read("/proc/1/comm"), "systemd\n");
    assert_eq!(machine.ok(&["cat", "/proc/self/cgroup"]).lines().last(), Some("0::/tests"));
    let network = machine.ok(&["readlink", "/proc/self/ns/net"]);
    assert_ne!(Path::new(&network), fs::read_link("/proc/self/ns/net").unwrap());
    machine.write("/etc/microvm-spectrum-test/link-me", "only here\n");
    machine.ok(&["ln", "-s", "/etc/microvm-spectrum-test", "/var/linked"]);
    assert_eq!(machine.read("/var/linked/link-me"), "only here\n");
    assert!(!Path::new("/etc/microvm-spectrum-test").exists());

    // A unit of a user whom only a record in /run/userdb makes known.
    let transient = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"];
    let id = ["-p", "User=70000", "-p", "Group=70000", "id", "-u"];
    let ran = machine.run(&[transient.as_slice(), &id].concat());
    assert_eq!(ran.status, 217, "the user was known: {ran:?}");
    let user = r#"{"userName":"somebody","uid":70000,"gid":70000,"disposition":"system"}"#;
    machine.write("/run/userdb/70000.user", user);
    machine.write("/run/userdb/70000.group", r#"{"groupName":"somebody","gid":70000}"#);
    assert_eq!(machine.ok(&[transient.as_slice(), &id].concat()), "70000");

    // An ordinary user may look but not touch.
    let ran =
        machine.try_as(70000, 70000, &["sh", "-c", "id -u; id -G; grep Cap /proc/self/status; >/run/x"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stdout.starts_with("70000\n70000\n"), "{ran:?}");
    assert_eq!(ran.stdout.matches("0000000000000000").count(), 5, "{ran:?}");
    assert_ne!(machine.try_as(70000, 70000, &["systemctl", "stop", "dbus.socket"]).status, 0);

    // What units say, and the state that they are in.
    machine.ok(&["systemd-run", "--quiet", "--unit=talks", "sh", "-c", "echo hello; exec sleep 1000"]);
    machine.wait_active("talks");
    wait_for("its greeting", || machine.journal("talks").contains("hello").then_some(()));
    machine.ok(&["systemctl", "kill", "--signal=SEGV", "talks"]);
    machine.wait_state("talks", "failed");
    assert_eq!(machine.property("talks", "ExecMainStatus"), "11");

    // A command that is killed here takes its program along.
    let sleeps = || processes_in(&namespace).contains(&"sleep\n".to_owned());
    let mut killed = machine.command("sleep", ["1000"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the program", || sleeps().then_some(()));
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_for("the program's end", || (!sleeps()).then_some(()));

    // What still runs, also from here, does not keep it from powering off.
    let mut sleeper = machine.command("sleep", ["1000"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the sleeper", || sleeps().then_some(()));
    assert!(group.as_ref().is_none_or(|group| group.exists()), "{group:?}");
    drop(machine);
    assert!(!sleeper.wait().unwrap().success());
    assert_eq!(processes_in(&namespace), [""; 0]);
    assert!(group.as_ref().is_none_or(|group| !group.exists()), "{group:?} is left");
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains("microvm-spectrum-box"));
}

#[test]
fn two_machines_live_side_by_side_and_die_with_their_keepers() {
    needs!(is_possible());
    let place = tempfile::tempdir().unwrap();
    let shared = format!("{}:/mnt/shared", place.path().display());
    let machines = std::thread::scope(|scope| {
        [0, 1]
            .map(|_| scope.spawn(|| Machine::boot_with(&["--bind", &shared])))
            .map(|boot| boot.join().unwrap())
    });
    let [first, second] = &machines;
    assert_ne!(first.read("/etc/machine-id"), second.read("/etc/machine-id"));
    first.ok(&["systemctl", "stop", "dbus.socket", "dbus.service"]);
    assert_eq!(second.property("dbus.socket", "ActiveState"), "active");
    first.write("/mnt/shared/said", "here and there\n");
    assert_eq!(second.read("/mnt/shared/said"), "here and there\n");
    assert_eq!(fs::read_to_string(place.path().join("said")).unwrap(), "here and there\n");

    let namespace = fs::read_link(format!("/proc/{}/ns/pid", first.pid)).unwrap();
    let group = control_group(first);
    let [first, second] = machines;
    first.kill_keeper();
    wait_for("the end of its processes", || processes_in(&namespace).is_empty().then_some(()));
    drop(second);
    // Only its control group is left, until the next one boots.
    drop(Machine::boot());
    assert!(group.as_ref().is_none_or(|group| !group.exists()), "{group:?} is left");
}

#[test]
fn a_terminal_shows_what_a_program_does_to_it() {
    let script = "trap 'echo told' WINCH; stty size; read line; echo \"<$line>\"; stty raw -echo; printf raw; \
        printf '<%s>' \"$(head -c 3)\"; stty sane; echo cooked; \
        until [ \"$(stty size)\" = '32 98' ]; do sleep 0.05; done; exit 7";
    let uses = |command: &Command| {
        let mut terminal = Terminal::start(command, 31, 97);
        terminal.wait_for("31 97");
        assert!(!terminal.is_raw());
        terminal.type_text("typed\r");
        terminal.wait_for("<typed>\r\n");
        terminal.wait_for("raw");
        assert!(terminal.is_raw());
        terminal.type_text("a\x03\r");
        terminal.wait_for("<a\x03\r>");
        terminal.wait_for("cooked");
        assert!(!terminal.is_raw());
        terminal.resize(32, 98);
        assert_eq!(terminal.end().code(), Some(7));
        terminal.wait_for("told");
    };
    uses(Command::new("setsid").args(["--ctty", "bash", "-c", script]));

    // Hung up: the program's session gets the signal.
    let mut terminal = Terminal::start(
        Command::new("setsid").args(["--ctty", "sh", "-c", "echo up; exec sleep 1000"]),
        24,
        80,
    );
    terminal.wait_for("up");
    terminal.hang_up();
    assert!(!terminal.end().success());

    needs!(is_possible());
    let machine = Machine::boot();
    uses(&machine.command("bash", ["-c", script]));
    uses(&machine.command_as(70000, 70000, "bash", ["-c", script]));

    // A key that sends a signal, and one which the program survives.
    let survives = "trap 'echo got it; exit 5' INT; echo up; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&machine.command("bash", ["-c", survives]), 24, 80);
    terminal.wait_for("up");
    terminal.type_text("\x03");
    terminal.wait_for("got it");
    assert_eq!(terminal.end().code(), Some(5));
    let mut terminal = Terminal::start(&machine.command("sh", ["-c", "echo up; exec sleep 1000"]), 24, 80);
    terminal.wait_for("up");
    terminal.hang_up();
    assert_eq!(terminal.end().code(), Some(128 + 1));
}
