// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `start`, `stop`, `restart`, `log` and `console`, with stand-ins for systemd's
//! programs: which VMs they take, and what they call.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use crate::support::program::run;
use crate::support::terminal::Terminal;
use crate::sync_host::{Host, host, script};

const VERBS: [&str; 3] = ["start", "stop", "restart"];
const ALL: [&str; 5] = ["start", "stop", "restart", "log", "console"];

struct Place {
    host: Host,
    bin: PathBuf,
}

/// A host with stand-ins that note how they were called.
fn place() -> Place {
    let host = host();
    let bin = host.root.join("bin");
    fs::create_dir(&bin).unwrap();
    let place = Place { host, bin };
    place.answers("systemctl", "");
    place.answers("journalctl", "");
    place
}

impl Place {
    /// Makes the stand-in for a program.
    fn answers(&self, program: &str, script_text: &str) {
        let calls = self.bin.join("calls");
        script(
            &self.bin.join(program),
            &format!("echo {program} \"$*\" >>'{}'\n{script_text}", calls.display()),
        );
    }

    fn call(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.call(arguments);
        command.env("PATH", &self.bin);
        command
    }

    /// What was called since the last time.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.bin.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.bin.join("calls"));
        calls.lines().map(str::to_owned).collect()
    }
}

#[test]
fn systemd_starts_and_stops_all_at_once() {
    let place = place();
    for name in ["a", "b.c-d", "z"] {
        place.host.vm(name);
    }
    place.host.synced();
    for verb in VERBS {
        run(&mut place.call(&[verb, "a", "b.c-d"])).exits(0).says_nothing();
        let calls = place.calls();
        let wanted = format!("systemctl {verb} -- microvm@a.service microvm@b.c-d.service");
        let found: Vec<_> = calls.iter().filter(|call| call.starts_with(&wanted)).collect();
        assert_eq!(found.len(), 1, "{calls:?}");
        // To stop waits for all that the VMs required.
        assert_eq!(found[0].contains(" microvm-set-booted@b.c-d.service"), verb == "stop", "{calls:?}");
        // The user wants it now, however often it has failed before.
        let again = calls.iter().any(|call| call.starts_with("systemctl reset-failed -- microvm@a.service "));
        assert_eq!(again, verb != "stop", "{calls:?}");
        assert!(calls.iter().all(|call| !call.contains("@z")), "{calls:?}");
    }
}

#[test]
fn all_are_those_that_can_or_do() {
    let place = place();
    for verb in VERBS {
        run(&mut place.call(&[verb, "--all"])).exits(0).says_nothing();
        assert_eq!(place.calls(), [""; 0], "nothing is installed");
    }
    for name in ["a", "b", "c"] {
        place.host.vm(name);
    }
    place.host.vm("broken").file("wayland", b"");
    run(&mut place.host.sync()).exits(1);
    symlink(place.host.package("user/b"), place.host.state.join("b/booted")).unwrap();
    for (verb, names) in [("start", &["a", "b", "c"][..]), ("stop", &["b"]), ("restart", &["b"])] {
        run(&mut place.call(&[verb, "--all"])).exits(0).says_nothing();
        let calls = place.calls();
        let call = calls.iter().find(|call| call.starts_with(&format!("systemctl {verb} "))).unwrap();
        let taken: Vec<_> = call.split(' ').filter_map(|word| word.strip_prefix("microvm@")).collect();
        let wanted: Vec<_> = names.iter().map(|name| format!("{name}.service")).collect();
        assert_eq!(taken, wanted, "{verb}");
        run(&mut place.call(&[verb, "--all", "a"])).exits(2);
        run(&mut place.call(&[verb])).exits(2);
    }
}

#[test]
fn an_unknown_name_suggests_the_near_one() {
    let place = place();
    for verb in ALL {
        let ran = run(&mut place.call(&[verb, "appvm-helo"])).exits(1);
        ran.complains(&["there is no VM 'appvm-helo'; none is installed: see microvm-spectrum-sync(1)"]);
    }
    place.host.vm("appvm-hello");
    place.host.vm("netvm");
    place.host.vm("broken-vm").file("wayland", b"");
    run(&mut place.host.sync()).exits(1);
    fs::create_dir(place.host.state.join("their-vm")).unwrap();
    symlink("/nix/store/x", place.host.state.join("their-vm/current")).unwrap();
    for verb in ALL {
        for (wrong, near) in [
            ("appvm-helo", "appvm-hello"),
            ("appvm-hello2", "appvm-hello"),
            ("netvn", "netvm"),
            ("brokenvm", "broken-vm"),
            ("theirvm", "their-vm"),
        ] {
            let ran = run(&mut place.call(&[verb, wrong])).exits(1);
            let expected = format!("microvm-spectrum: there is no VM '{wrong}'; did you mean {near}?\n");
            assert_eq!((ran.stderr, ran.stdout), (expected, String::new()), "{verb}");
        }
        for far in ["xyz", "", "APPVM", "\u{1b}[31m", "/etc/passwd", "../appvm-hello"] {
            let ran = run(&mut place.call(&[verb, far])).exits(1);
            assert!(ran.stderr.contains("there is no VM '"), "{verb} {far:?}: {}", ran.stderr);
        }
        run(&mut place.call(&[verb, "xyz"])).complains(&["; microvm-spectrum list shows them"]);
    }
    assert_eq!(place.calls(), [""; 0], "nothing is called for a name that is wrong");
    // Not even for those that are right.
    for verb in VERBS {
        let ran = run(&mut place.call(&[verb, "netvm", "appvm-helo", "netvn"])).exits(1);
        ran.complains(&["did you mean appvm-hello?", "did you mean netvm?"]);
        assert_eq!(place.calls(), [""; 0]);
    }
}

#[test]
fn a_broken_vm_is_explained_and_not_started() {
    let place = place();
    let vm = place.host.vm("a");
    place.host.vm("b");
    place.host.synced();
    let package = place.host.package("user/a");
    let entry = vm.path.join("shared-dirs/\\u{1b}[31m/dir");
    drop(vm.share("\u{1b}[31m", "/nowhere"));
    run(&mut place.host.sync()).exits(1);
    for verb in VERBS {
        let ran = run(&mut place.call(&[verb, "b", "a"])).exits(1);
        let error = format!("error: {}: ", entry.display());
        ran.complains(&[&error, "\n  help: ", "microvm-spectrum: a cannot run\n"]);
        assert_eq!(place.calls(), [""; 0]);
    }
    // One that still runs can be stopped.
    fs::create_dir(place.host.state.join("a")).unwrap();
    symlink(package, place.host.state.join("a/booted")).unwrap();
    run(&mut place.call(&["stop", "a"])).exits(0).says_nothing();
    let calls: Vec<_> =
        place.calls().into_iter().filter(|call| !call.starts_with("systemctl show")).collect();
    assert!(calls.len() == 1 && calls[0].starts_with("systemctl stop -- microvm@a.service "), "{calls:?}");
    // Its log can be read in any case.
    run(&mut place.call(&["log", "a"])).exits(0);
    assert_eq!(place.calls().len(), 1);
}

#[test]
fn a_stop_that_kills_a_guest_has_a_status_and_a_sentence_of_its_own() {
    let place = place();
    for name in ["a", "b"] {
        place.host.vm(name);
    }
    place.host.synced();
    // Until it is stopped, `a` runs; `b` was killed at an earlier stop.
    let stopped = place.bin.join("stopped");
    let shows = |unit: &str, state: &str| {
        format!(
            "printf 'Id=microvm@{unit}.service\\nActiveState={state}\\nResult=exit-code\\nExecMainStatus=8\\n\
             StatusText=killed \\033[31m\\n\\n'\n"
        )
    };
    let text = format!(
        "case $1 in\nstop) : >'{0}' ;;\nshow) {1}if [ -e '{0}' ]; then {2} else {3} fi ;;\nesac\n",
        stopped.display(),
        shows("b", "failed"),
        shows("a", "failed"),
        shows("a", "active"),
    );
    place.answers("systemctl", &text);
    let ran = run(&mut place.call(&["stop", "a", "b"])).exits(1);
    assert_eq!(ran.stderr, "microvm-spectrum: a has stopped: killed \\u{1b}[31m\n");
    run(&mut place.call(&["stop", "a", "b"])).exits(0).says_nothing();
}

#[test]
fn a_start_that_fails_says_what_the_supervisor_said() {
    let place = place();
    place.host.vm("a");
    place.host.synced();
    place.answers(
        "systemctl",
        "case $1 in\n\
         show) printf 'Id=microvm@a.service\\nActiveState=failed\\nSubState=failed\\n\
         StatusText=no disk \\033[31m\\n' ;;\n\
         *) echo 'Job failed.' >&2; exit 1 ;;\nesac\n",
    );
    let ran = run(&mut place.call(&["start", "a"])).exits(3);
    ran.complains(&[
        "microvm-spectrum: a: no disk \\u{1b}[31m\n",
        "a: run 'microvm-spectrum log --all a' to see more",
    ]);
    // A systemd that says nothing, and none at all.
    place.answers("systemctl", "exit 1");
    run(&mut place.call(&["start", "a"])).exits(3);
    fs::remove_file(place.bin.join("systemctl")).unwrap();
    for verb in VERBS {
        let ran = run(&mut place.call(&[verb, "a"])).exits(3);
        ran.complains(&["systemctl cannot be started: No such file"]);
    }
}

#[test]
fn a_start_names_the_unit_that_failed_before_it() {
    let place = place();
    place.host.vm("a");
    place.host.synced();
    for (text, said) in [("no nft \\033[31m", "no nft \\u{1b}[31m"), ("", "failed (exit-code)")] {
        place.answers(
            "systemctl",
            &format!(
                "case $1 in\n\
                 show) printf 'Id=microvm-virtiofsd@a.service\\nActiveState=failed\\n\\n\
                 Id=microvm-tap-interfaces@a.service\\nActiveState=failed\\nResult=exit-code\\nStatusText={text}\\n\\n\
                 Id=microvm-tap-interfaces@b.service\\nActiveState=failed\\nStatusText=not mine\\n\\n\
                 Id=microvm@a.service\\nActiveState=inactive\\nStatusText=the guest powered off\\n' ;;\n\
                 *) exit 1 ;;\nesac\n"
            ),
        );
        let why = format!("microvm-tap-interfaces@a.service: {said}");
        for verb in ["start", "restart"] {
            let ran = run(&mut place.call(&[verb, "a"])).exits(3);
            assert!(ran.stderr.starts_with(&format!("microvm-spectrum: a: {why}\n")), "{}", ran.stderr);
        }
        let list = run(&mut place.call(&["list"])).exits(0).stdout;
        let row = list.lines().nth(1).unwrap();
        assert!(row.contains(" failed ") && row.ends_with(&why), "{list}");
    }
    // What it said when it ran is not why it did not start.
    place.answers(
        "systemctl",
        "case $1 in\n\
         show) printf 'Id=microvm@a.service\\nActiveState=inactive\\nStatusText=the guest powered off\\n' ;;\n\
         *) exit 1 ;;\nesac\n",
    );
    let ran = run(&mut place.call(&["restart", "a"])).exits(3);
    let ran = ran.complains(&["microvm-spectrum: a: it did not start\n"]);
    assert!(!ran.stderr.contains("powered off"), "{}", ran.stderr);
}

#[test]
fn a_log_is_what_the_guest_printed_made_printable() {
    let place = place();
    place.host.vm("a");
    place.host.synced();
    place.answers("journalctl", "printf 'one\\r\\n\\033]0;t\\007two\\t\\302\\233\\377\\\\\\n'");
    let ran = crate::support::program::run_raw(
        &mut place.call(&["log", "a"]),
        std::process::Stdio::piped(),
        std::process::Stdio::piped(),
    );
    assert_eq!(ran.exits(0).stdout, "one\n\\u{1b}]0;t\\u{7}two\t\\u{9b}\\xff\\\n");
    // Colours are for terminals, and the guest's other escapes for nobody.
    let coloured = "printf '\\033[1;31mred\\033[0m\\033[2J\\rplain\\n'";
    place.answers("journalctl", coloured);
    assert_eq!(run(&mut place.call(&["log", "a"])).exits(0).stdout, "red\\u{1b}[2Jplain\n");
    let call = place.call(&["log", "a"]);
    let path = format!("{}:{}", place.bin.display(), std::env::var("PATH").unwrap());
    let mut seated = Command::new("setsid");
    seated.arg("--ctty").arg(call.get_program()).args(call.get_args()).env("PATH", path).env("TERM", "xterm");
    let mut terminal = Terminal::start(&seated, 24, 80);
    assert!(terminal.end().success());
    terminal.wait_for("\x1b[1;31mred\x1b[0m\\u{1b}[2Jplain\x1b[0m");
    place.answers("journalctl", "");
    place.calls();
    for (arguments, present, absent) in [
        (
            &[][..],
            &["--unit=microvm@a.service", "--identifier=microvm@a", "--output=cat"][..],
            &["--follow"][..],
        ),
        (&["--all"], &["--unit=microvm@a.service", "--output=short-iso"], &["--identifier"]),
        (&["-f"], &["--follow", "--lines=all"], &[]),
        (&["-n", "7"], &["--lines=7"], &["--follow"]),
        (&["-f", "-n", "0"], &["--follow", "--lines=0"], &["--lines=all"]),
    ] {
        run(place.call(&["log", "a"]).args(arguments)).exits(0).says_nothing();
        let calls = place.calls();
        let words: Vec<_> = calls[0].split(' ').collect();
        assert!(present.iter().all(|word| words.contains(word)), "{arguments:?}: {words:?}");
        assert!(!absent.iter().any(|part| calls[0].contains(part)), "{arguments:?}: {words:?}");
    }
    run(place.call(&["log", "a", "-n", "x"]).args([""; 0])).exits(2);
    place.answers("journalctl", "exit 1");
    run(&mut place.call(&["log", "a"])).exits(3);
    fs::remove_file(place.bin.join("journalctl")).unwrap();
    run(&mut place.call(&["log", "a"])).exits(3).complains(&["the journal cannot be read"]);
}

#[test]
fn the_console_of_a_vm_that_does_not_run() {
    let place = place();
    // A name that no VM of this host has.
    let name = format!("test-{}", std::process::id());
    place.host.vm(&name);
    place.host.synced();
    let ran = run(&mut place.call(&["console", &name])).exits(1);
    ran.complains(&[&format!("{name} does not run; microvm-spectrum start {name} starts it")]);
    assert_eq!(place.calls(), [""; 0]);
}
