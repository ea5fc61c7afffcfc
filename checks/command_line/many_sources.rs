// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the catalog of several sources is good for: the plan of a sync, everything
//! that is wrong, what VMs keep that are gone, and letting go of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{PROGRAM, parse, run};
use crate::support::skip::needs;
use crate::support::tree::{self, assert_same};
use crate::support::vm_directory::Partition;
use crate::sync_host::{Host, host};

fn plan(host: &Host, status: i32) -> Vec<String> {
    let before = tree::read(&host.root);
    let ran = run(host.sync().arg("--dry-run")).exits(status);
    assert_same(&before, &tree::read(&host.root), "a plan changes nothing");
    ran.stdout.lines().map(str::to_owned).collect()
}

/// Syncs, which says what its plan says.
fn does(host: &Host, status: i32) {
    let plan = plan(host, status);
    let ran = run(&mut host.sync()).exits(status);
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), plan);
}

/// The rows of `list --all` as `SOURCE/NAME STATE`.
fn all(host: &Host) -> Vec<String> {
    let ran = run(host.call(&["list", "--all", "--json"]).env("PATH", "/nowhere")).exits(0);
    let list: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let rows = list["vms"].as_array().unwrap().iter();
    rows.map(|row| format!("{}/{} {}", text(row, "source"), text(row, "name"), text(row, "state"))).collect()
}

#[test]
fn a_plan_says_what_becomes_of_each_vm_and_changes_nothing() {
    let host = host();
    // Not even where nothing is.
    host.vm("a");
    let b = host.vm("b");
    let c = host.vm("c");
    assert_eq!(plan(&host, 0), ["new user/a", "new user/b", "new user/c"]);
    assert!(!host.state.exists());
    does(&host, 0);
    // A sync that changes nothing says nothing.
    run(&mut host.sync()).exits(0).says_nothing();
    assert_eq!(plan(&host, 0), ["nothing to do"]);
    host.configure("[vm.a]\nmemory = 64\n");
    fs::write(b.path.join("blk/root.img"), "another").unwrap();
    let c = c.file("wayland", b"");
    host.vm("d").provider("c");
    host.vm("e");
    fs::rename(host.partition.root.join("svc/data/e"), host.partition.root.join("e")).unwrap();
    assert_eq!(
        plan(&host, 1),
        [
            "changed user/a: its definition or its settings",
            "changed user/b: blk/root.img",
            "broken user/c",
            "blocked user/d"
        ]
    );
    does(&host, 1);
    assert_eq!(plan(&host, 1), ["nothing to do"]);
    fs::remove_dir_all(c.path).unwrap();
    assert_eq!(plan(&host, 1), ["removed user/c", "blocked user/d"]);
    does(&host, 1);
    // A mistake is reported as ever.
    host.configure("[vm.a]\nmemory = 0\n");
    let ran = run(host.sync().arg("--dry-run")).exits(1);
    ran.complains(&["cannot have 0 MiB of memory"]);
    run(host.sync().args(["--dry-run", "--start"])).exits(2);
}

#[test]
fn a_sync_says_no_more_of_one_source_than_a_person_reads() {
    let host = host();
    let (other, one) = (Partition::at(&host.root.join("other")), host.vm("one"));
    other.vm("good").image("root.img", b"");
    for number in 0..120 {
        std::os::unix::fs::symlink(&one.path, one.path.with_file_name(format!("vm-{number}"))).unwrap();
    }
    host.configure_sources(&[("user", &host.partition.root), ("other", &other.root)], "");
    let plan = plan(&host, run(host.sync().arg("--dry-run")).status);
    assert_eq!(plan.len(), 102, "{plan:?}");
    assert!(plan.contains(&"new other/good".to_owned()));
    assert_eq!(plan.last().unwrap(), "and 21 more of the source user");
}

#[test]
fn everything_that_is_wrong_is_in_the_catalog() {
    let host = host();
    let nothing = run(&mut host.call(&["check"])).exits(1);
    nothing.complains(&["no VM is installed: see microvm-spectrum-sync(1)"]);
    host.vm("fine");
    host.vm("lost").provider("nobody\u{1b}[31m");
    host.vm("both");
    host.vm("broken").file("wayland", b"").file("vmlinux", b"no kernel\n");
    let second = Partition::at(&host.root.join("second"));
    second.vm("both").image("root.img", b"");
    second.vm("late").image("root.img", b"");
    host.configure_sources(&[("user", &host.partition.root), ("second", &second.root)], "");
    let synced = run(&mut host.sync()).exits(1);
    fs::rename(&second.root, host.root.join("away")).unwrap();
    let ran = run(&mut host.call(&["check"])).exits(1);
    // The same words as when it was found.
    let (told, _) = parse(&synced.stderr);
    let errors: Vec<_> = told.iter().filter(|problem| problem.severity == "error").collect();
    assert!(errors.len() >= 3, "{told:?}");
    for problem in errors {
        assert!(
            ran.stdout.contains(&format!("error: {}\n  help: {}\n", problem.text, problem.help)),
            "{problem:?}"
        );
    }
    assert!(ran.stdout.contains("second/svc/data/both: is shadowed by the VM of that name in user\n"));
    assert!(!ran.stdout.contains('\u{1b}') && ran.stdout.contains("6 VM directories: "), "{}", ran.stdout);
    // A source that went away is a note, and its VMs are no errors.
    run(&mut host.sync()).exits(1);
    let ran = run(host.call(&["check", "--json"]).env("PATH", "/nowhere")).exits(1);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let of = |end: &str| {
        let all = report["directories"].as_array().unwrap();
        all.iter().find(|one| one["directory"].as_str().unwrap().ends_with(end)).unwrap()["problems"].clone()
    };
    assert_eq!(of("second/svc/data")[0]["severity"], "note");
    assert_eq!(of("second/svc/data/late"), json!([]));
    assert_eq!(of("user/fine".trim_start_matches("user")), json!([]));
    // When nothing is wrong any more, nothing is reported.
    host.configure("");
    for name in ["lost", "broken"] {
        fs::remove_dir_all(host.partition.root.join("svc/data").join(name)).unwrap();
    }
    host.synced();
    assert_eq!(run(&mut host.call(&["check"])).exits(0).stdout, "2 VM directories: 0 errors, 0 notes\n");
}

#[test]
fn what_a_removed_vm_has_is_kept_until_it_is_forgotten() {
    let host = host();
    let gone = host.vm("gone").provider("net");
    host.vm("net");
    host.vm("other");
    let second = Partition::at(&host.root.join("second"));
    for name in ["gone", "x", "y"] {
        second.vm(name).image("root.img", b"");
    }
    host.configure_sources(&[("user", &host.partition.root), ("second", &second.root)], "");
    run(&mut host.sync()).exits(0);
    let address = host.in_catalog("user/gone")["links"][0]["ipv4"].clone();
    let uid = host.uid("user/gone");
    fs::rename(&gone.path, host.root.join("gone")).unwrap();
    fs::remove_dir_all(second.root.join("svc")).unwrap();
    fs::create_dir_all(second.root.join("svc/data")).unwrap();
    run(&mut host.sync()).exits(0);
    assert_eq!(
        all(&host),
        [
            "user/gone removed",
            "user/net unknown",
            "user/other unknown",
            "second/x removed",
            "second/y removed"
        ]
    );
    let ran = run(host.call(&["list", "--all", "--json"]).env("PATH", "/nowhere")).exits(0);
    let list: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&list["vms"][0]["uid"], &list["vms"][0]["addresses"]), (&uid.into(), &json!([address])));
    let forget = |arguments: &[&str]| run(host.call(&["forget", "--no-systemd"]).args(arguments));
    // All or none.
    let leases = host.leases();
    let refused = forget(&["gone", "net", "nobody\u{1b}[31m", "second/other"]).exits(1);
    refused.complains(&[
        "user/net still exists",
        "no VM 'nobody\\u{1b}[31m' has leases",
        "no VM 'second/other' has leases",
    ]);
    assert_eq!(host.leases(), leases);
    forget(&["gone"]).exits(0).complains(&["user/gone is forgotten"]);
    // Also before the next sync.
    assert!(!all(&host).contains(&"user/gone removed".to_owned()), "{:?}", all(&host));
    forget(&["--source", "second"]).exits(0).complains(&["second/x is forgotten", "second/y is forgotten"]);
    assert_eq!(host.leases().keys().collect::<Vec<_>>(), ["user/net", "user/other"]);
    host.synced();
    assert_eq!(all(&host), ["user/net unknown", "user/other unknown"]);
    // What comes by that name is a new one.
    fs::rename(host.root.join("gone"), &gone.path).unwrap();
    host.synced();
    assert_ne!(host.uid("user/gone"), uid, "the files of one are not the next one's");
    for wrong in [&[][..], &["--source", "a b"]] {
        forget(wrong).exits(2);
    }
}

#[test]
fn nobody_is_forgotten_while_nobody_can_tell_who_is_gone() {
    let host = host();
    host.vm("a");
    host.synced();
    let leases = host.leases();
    fs::write(host.own("current/catalog.json"), "{").unwrap();
    for arguments in [["a"].as_slice(), &["--source", "user"]] {
        let ran = run(host.call(&["forget", "--no-systemd"]).args(arguments)).exits(1);
        ran.complains(&[
            "catalog.json: is not a catalog that this program can use",
            "\n  help: write a new one: microvm-spectrum sync",
        ]);
    }
    assert_eq!(host.leases(), leases);
    host.synced();
    run(&mut host.call(&["forget", "a", "--no-systemd"])).exits(1).complains(&["user/a still exists"]);
}

/// Its owner could put it there to get the traffic of another source's VM.
#[test]
fn a_provider_of_a_later_source_is_none() {
    let host = host();
    let client = host.vm("client").provider("net");
    host.vm("up");
    let second = Partition::at(&host.root.join("second"));
    second.vm("net").image("root.img", b"").provider("client");
    second.vm("late").image("root.img", b"").provider("up").provider("own");
    second.vm("own").image("root.img", b"");
    let sources = [("user", host.partition.root.as_path()), ("second", &second.root)];
    host.configure_sources(&sources, "");
    let ran = run(&mut host.sync()).exits(1);
    let path = client.path.join("providers/net");
    ran.complains(&[
        &format!(
            "error: {}: its network provider net is of second, a source that comes later\n",
            path.display()
        ),
        "  help: have a VM of the same source or of an earlier one provide it",
        "its network provider client cannot run",
    ]);
    host.has(&[
        ("user/client", "blocked"),
        ("second/late", "runnable"),
        ("second/net", "blocked"),
        ("second/own", "runnable"),
        ("user/up", "runnable"),
    ]);
    // In the order that makes it an earlier one, it may.
    second.vm("net").without("providers");
    host.configure_sources(&[sources[1], sources[0]], "");
    fs::remove_file(second.root.join("svc/data/late/providers/net/up")).unwrap();
    run(&mut host.sync()).exits(0);
    assert_eq!(host.in_catalog("user/client")["state"], "runnable");
}

#[test]
fn a_client_does_not_start_with_the_host_if_its_provider_may_not() {
    let host = host();
    let client = host.vm("client").provider("middle");
    host.vm("middle").provider("net");
    host.vm("free");
    let first = Partition::at(&host.root.join("first"));
    first.vm("net").image("root.img", b"");
    host.configure_sources(
        &[("first", &first.root), ("user", &host.partition.root)],
        "[vm.'user/client']\nautostart = true\n[vm.'user/free']\nautostart = true\n",
    );
    let starts = || {
        let vms = ["user/client", "user/middle", "user/free"];
        vms.map(|vm| host.in_catalog(vm)["autostart"].as_bool().unwrap())
    };
    run(&mut host.sync()).exits(0).warns_of_nothing();
    assert_eq!(starts(), [true, false, true]);
    let config = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, config.replacen("autostart = true\n", "", 1)).unwrap();
    let ran = run(&mut host.sync()).exits(0);
    assert_eq!(starts(), [false, false, true]);
    ran.complains(&[&format!(
        "note: {}: does not start with the host: it needs a VM of first, which may not\n  help: set \
         autostart = true for the source first, or autostart = false for this VM\n",
        client.path.join("providers/net").display()
    )]);
}

#[test]
fn settings_for_nobody_are_noted() {
    let host = host();
    host.vm("a");
    host.configure("[vm.typo]\nmemory = 64\n[vm.a]\nmemory = 64\n");
    let ran = run(&mut host.sync()).exits(0);
    assert!(!ran.stderr.contains("[vm.\"a\"]"), "{}", ran.stderr);
    ran.complains(&["note: ", "[vm.\"typo\"] is for a VM that the source user does not have"]);
}

#[test]
fn a_package_that_was_built_elsewhere_has_its_links() {
    let host = host();
    host.vm("client").provider("net");
    host.vm("net");
    host.synced();
    let link = host.in_catalog("user/client")["links"][0]["id"].as_str().unwrap().to_owned();
    let package = host.root.join("runner");
    let copied =
        Command::new("cp").arg("-a").arg(host.package("user/client")).arg(&package).status().unwrap();
    assert!(copied.success());
    // It takes the place of the VM in the source, whose link has the same id.
    let runner = format!("[vm.client]\nrunner = '{}'\n", package.display());
    host.configure(&runner);
    // Only root can say that root alone could change it.
    let is_trusted = !rustix::process::geteuid().is_root();
    let ran = run(&mut host.sync()).exits(1);
    if is_trusted {
        ran.complains(&[&format!(
            "has the id {link} for its link to net, which the link from user/client to net has"
        )]);
    } else {
        ran.complains(&[&package.display().to_string()]);
    }
    host.has(&[("configuration/client", "broken"), ("user/client", "shadowed"), ("user/net", "runnable")]);
}

#[test]
fn a_bar_is_shown_when_it_takes_long() {
    let host = host();
    let [strace, script] =
        ["strace", "script"].map(|name| Command::new(name).arg("--version").output().is_ok());
    needs!((strace && script).then_some(()).ok_or("strace or script is not installed"));
    for index in 0..8 {
        host.vm(&format!("vm-{index}"));
    }
    let sync = format!(
        "'{PROGRAM}' sync --no-systemd --config '{}' --state-dir '{}'",
        host.config.display(),
        host.state.display()
    );
    // What is read slowly, by calls that wait, in microseconds.
    let slowly = host.root.join("slowly");
    let slow = "strace -f -o /dev/null -e trace=getdents64 -e inject=getdents64:delay_enter=80000";
    fs::write(&slowly, format!("#!/bin/sh\nexec {slow} {sync}\n")).unwrap();
    fs::set_permissions(&slowly, fs::Permissions::from_mode(0o755)).unwrap();
    let on_a_terminal = |command: &str| {
        let ran =
            Command::new("script").args(["--quiet", "--return", "--command", command, "/dev/null"]).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let shown = on_a_terminal(&slowly.display().to_string());
    assert!(shown.contains("reading VMs") && shown.contains("/8"), "{shown:?}");
    host.is_whole();
    // A short one shows nothing, and neither does one without a terminal.
    assert_eq!(on_a_terminal(&sync), "");
    fs::remove_dir_all(&host.state).unwrap();
    run(&mut Command::new(&slowly)).exits(0).warns_of_nothing();
}
