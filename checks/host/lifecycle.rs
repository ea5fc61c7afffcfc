// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM's life in its units: start, stop, restart, and how a guest ends it. `readme` has the
//! life of a VM that nothing happens to.

use std::fs;
use std::process::Stdio;

use crate::support::installed::{Host, INSTALLED};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::terminal::Terminal;
use crate::support::waiting::{Collected, wait_for, wait_or_explain};

#[test]
fn a_guest_that_powers_off_stays_off_and_one_that_reboots_goes_on() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    host.start("appvm");
    let pid = host.machine.property("microvm@appvm.service", "MainPID");
    // A reboot is a reset in place.
    host.in_guest("appvm", "(sleep 1; reboot -f) &");
    host.wait_boots("appvm", 2);
    assert_eq!(host.machine.property("microvm@appvm.service", "MainPID"), pid);
    assert_eq!(host.in_guest("appvm", "mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    host.last_words("appvm", "poweroff -f");
    host.wait_state("appvm", "stopped");
    // Longer than it takes to restart one.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(host.state("appvm"), "stopped");
    assert_eq!(host.machine.property("microvm@appvm.service", "Result"), "success");
    // What it needed is gone as well.
    let units = host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "microvm*"]);
    assert_eq!(units, "");
    assert!(!host.machine.path("/var/lib/microvms/appvm/booted").is_symlink());
}

#[test]
fn a_guest_that_panics_is_started_again_and_its_journal_says_why() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.sync();
    host.start("appvm");
    host.last_words("appvm", "kill -USR1 1");
    host.wait_boots("appvm", 2);
    let journal = host.machine.journal("microvm@appvm.service");
    assert!(journal.contains("microvm-spectrum: appvm: the guest's kernel panicked"), "{journal}");
    // A stop while it boots again.
    host.last_words("appvm", "kill -USR1 1");
    wait_for("the second panic", || {
        let journal = host.machine.journal("microvm@appvm.service");
        (journal.matches("the guest's kernel panicked").count() == 2).then_some(())
    });
    host.run(&["stop", "appvm"]).exits(0);
    // Whether systemd has seen the panic's status before it was to stop it.
    let state = host.state("appvm");
    assert!(["stopped", "failed"].contains(&state.as_str()), "{state}");
    assert!(host.processes("qemu-system").is_empty());
}

#[test]
fn a_stop_while_it_boots() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    for delay in [0, 100, 300, 700] {
        host.run(&["start", "appvm"]).exits(0);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        host.run(&["stop", "appvm"]).exits(0);
        assert_eq!(host.state("appvm"), "stopped", "after {delay} ms");
        assert_eq!(host.machine.property("microvm@appvm.service", "Result"), "success");
        assert!(host.processes("qemu-system").is_empty());
    }
    host.start("appvm");
}

#[test]
fn a_package_replaced_while_the_vm_runs_stops_what_was_started() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.sync();
    host.start("appvm");
    let link = |name: &str| host.ok(&["readlink", "-f", &format!("/var/lib/microvms/appvm/{name}")]);
    let before = link("booted");
    let pid = host.machine.property("microvm@appvm.service", "MainPID");
    host.configure("[vm.appvm]\nmemory = 160\n");
    host.sync();
    host.vm("other");
    host.sync();
    // It runs on, and what it runs from is still there.
    assert_eq!(host.machine.property("microvm@appvm.service", "MainPID"), pid);
    assert_eq!(link("booted"), before);
    assert_ne!(link("current"), before);
    assert!(host.machine.path(&before).join("bin/microvm-run").exists());
    host.run(&["stop", "appvm"]).exits(0);
    assert_eq!(host.machine.property("microvm@appvm.service", "Result"), "success");
    assert!(host.log("appvm").contains("guest: power button"));
    host.start("appvm");
    assert_eq!(link("booted"), link("current"));
    assert!(host.log("appvm").contains("Memory: ") && host.in_guest("appvm", "free -m").contains("14"));
    // Now no VM needs the first package.
    host.sync();
    assert!(!host.machine.path(&before).exists());
}

#[test]
fn a_unit_never_starts_with_an_outdated_drop_in() {
    needs!(is_possible());
    let host = Host::new();
    let appvm = host.vm("appvm");
    host.sync();
    // The rename without the reload: as if a VM were started between the two. Another VM
    // changes nothing for this one.
    host.vm("other");
    host.run(&["sync", "--no-systemd"]).exits(0);
    host.start("appvm");
    host.run(&["stop", "appvm"]).exits(0);
    fs::create_dir_all(appvm.join("providers/net/other")).unwrap();
    host.run(&["sync", "--no-systemd"]).exits(0);
    host.machine.run(&["systemctl", "start", "microvm@appvm.service"]);
    assert_eq!(host.state("appvm"), "failed");
    assert!(!host.machine.path("/var/lib/microvms/appvm/booted").is_symlink());
    let told = "not started: it cannot run, or has changed since systemd read its units";
    host.ok(&["journalctl", "--sync"]);
    let journal = host.run(&["log", "--all", "appvm"]).stdout;
    assert!(journal.contains(told), "{journal}");
    host.run(&["start", "appvm"]).exits(3).complains(&[told, "run 'systemctl daemon-reload'"]);
    host.ok(&["systemctl", "daemon-reload"]);
    host.start("appvm");
    // Nor when it starts again by itself.
    fs::remove_dir(appvm.join("providers/net/other")).unwrap();
    host.run(&["sync", "--no-systemd"]).exits(0);
    host.ok(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "microvm@appvm.service"]);
    host.wait_state("appvm", "failed");
    let row = host.row("appvm");
    assert!(row["detail"].as_str().unwrap().contains(told), "{row}");
    host.ok(&["systemctl", "daemon-reload"]);
    host.start("appvm");
    host.run(&["stop", "appvm"]).exits(0);
    // systemd removes all drop-ins for a moment when it reads its units, whoever asks for that,
    // and does not answer while it executes itself anew.
    for what in ["daemon-reload", "daemon-reexec"] {
        let again = format!("while [ ! -e /run/enough ]; do systemctl {what}; sleep 1; done");
        let mut again = host.machine.command("sh", ["-c", &again]).stderr(Stdio::null()).spawn().unwrap();
        for _ in 0..30 {
            host.ok(&[INSTALLED, "host", "set-booted", "appvm"]);
        }
        host.ok(&[INSTALLED, "host", "clear-booted", "appvm"]);
        // systemctl would lose its connection.
        let starts = if what == "daemon-reload" { 3 } else { 0 };
        for _ in 0..starts {
            host.run(&["start", "appvm"]).exits(0);
            host.run(&["stop", "appvm"]).exits(0);
        }
        host.machine.write("/run/enough", "");
        again.wait().unwrap();
        fs::remove_file(host.machine.path("/run/enough")).unwrap();
    }
}

#[test]
fn a_vm_whose_unit_an_administrator_has_changed_says_what_is_wrong() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    for (drop_in, text, why) in [
        // By this the host does not see what it mounts.
        (
            "microvm-set-booted@.service.d",
            "PrivateTmp=yes",
            "its runtime directory has no file system of its own",
        ),
        ("microvm@appvm.service.d", "User=root", "its unit runs as user 0, and its own user is 70000"),
    ] {
        let drop_in = format!("/etc/systemd/system/{drop_in}/own.conf");
        host.machine.write(&drop_in, &format!("[Service]\n{text}\n"));
        host.ok(&["systemctl", "daemon-reload"]);
        host.run(&["start", "appvm"]).exits(3).complains(&[why]);
        // It tries again, and not for ever.
        host.run(&["stop", "appvm"]).exits(0);
        for helper in ["microvm-set-booted", "microvm-virtiofsd"] {
            let state = host.machine.property(&format!("{helper}@appvm.service"), "ActiveState");
            assert_eq!(state, "inactive", "{helper}");
        }
        assert!(!host.machine.path("/run/microvm-spectrum/started/appvm.json").exists());
        fs::remove_file(host.machine.path(&drop_in)).unwrap();
        host.ok(&["systemctl", "daemon-reload"]);
    }
    host.start("appvm");
    // What it was started from is gone when it starts again by itself.
    fs::remove_file(host.machine.path("/var/lib/microvms/appvm/current")).unwrap();
    host.ok(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", "microvm@appvm.service"]);
    wait_for("its end", || ["failed", "stopped"].contains(&host.state("appvm").as_str()).then_some(()));
    assert!(host.processes("qemu-system").is_empty());
    assert!(!host.machine.path("/run/microvm-spectrum/started/appvm.json").exists());
}

#[test]
fn a_vm_that_systemd_does_not_know_yet_never_starts_as_the_user_of_others() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("known");
    host.sync();
    // Installed, and not told: it has no drop-in, and so no user of its own.
    for name in ["one", "two"] {
        host.vm(name);
    }
    host.run(&["sync", "--no-systemd"]).exits(0);
    let why =
        |name: &str| format!("microvm-set-booted@{name}.service: not started: it cannot run, or has changed");
    host.run(&["start", "one", "two"]).exits(3).complains(&[&why("one"), &why("two")]);
    assert_eq!((host.state("one"), host.state("two")), ("failed".to_owned(), "failed".to_owned()));
    assert!(host.processes("qemu-system").is_empty());
    host.sync();
    host.start("one");
}

#[test]
fn a_vm_that_is_removed_while_it_runs_is_stopped() {
    needs!(is_possible());
    let host = Host::new();
    // When its virtiofsd ends, the link to the shared directory is gone.
    host.vm_with_share("appvm");
    let directory = host.machine.path("/srv/P/svc/data/appvm");
    host.sync();
    host.start("appvm");
    fs::rename(&directory, host.machine.path("/srv/P/away")).unwrap();
    host.run(&["sync", "--no-systemd"]).exits(0);
    let row = host.row("appvm");
    assert_eq!((&row["state"], &row["source"]), (&"running".into(), &serde_json::Value::Null));
    assert!(row["detail"].as_str().unwrap().contains("was removed from its source"));
    assert_eq!(host.in_guest("appvm", "echo here"), "here");
    // The sync that calls systemctl stops it, with its power button, whichever sync installed what is there.
    host.sync();
    host.machine.wait_state("microvm@appvm.service", "inactive");
    host.ok(&["journalctl", "--sync"]);
    assert!(host.machine.journal("microvm@appvm.service").contains("guest: power button"));
    wait_for("the end of its helpers", || {
        (!host.machine.path("/var/lib/microvms/appvm/booted").is_symlink()).then_some(())
    });
    wait_for("the end of its units", || {
        let units =
            host.ok(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "microvm*@appvm*"]);
        assert!(!units.contains(" failed "), "{units}");
        (!units.contains(" active ") && !units.contains("activating ")).then_some(())
    });
    host.sync();
    let all = host.run(&["list", "--all"]).exits(0).stdout;
    let row = all.lines().find(|line| line.starts_with("appvm ")).unwrap_or_else(|| panic!("{all}"));
    assert!(row.contains("removed") && row.contains("microvm-spectrum forget user/appvm"), "{row}");
    host.run(&["start", "appvm"]).exits(1).complains(&["there is no VM 'appvm'"]);
    // It comes back with the user that it had.
    fs::rename(host.machine.path("/srv/P/away"), &directory).unwrap();
    host.vm("another");
    host.sync();
    assert_eq!(host.row("appvm")["uid"], 70_000);
}

#[test]
fn a_guest_that_hangs_is_killed_and_stop_says_so() {
    needs!(is_possible());
    let host = Host::new();
    let directory = host.vm("appvm");
    host.sync();
    let unit = "microvm@appvm.service";
    // The second signal does what half a minute would.
    let hang = || {
        host.start("appvm");
        host.in_guest("appvm", "until killall -STOP head; do :; done");
    };
    let kill = || host.ok(&["systemctl", "kill", "--kill-whom=main", "--signal=TERM", unit]);
    let why = "appvm has stopped: the virtual machine monitor was killed: a second signal ended the guest's";
    hang();
    let mut stop = host.machine.command(INSTALLED, ["stop", "appvm"]);
    let mut stop = stop.stderr(Stdio::piped()).spawn().unwrap();
    let said = Collected::from(stop.stderr.take().unwrap());
    said.wait_for("appvm: waiting for the guest to power off; it is killed after 30 s\n");
    kill();
    assert_eq!(wait_for("the end of stop", || stop.try_wait().unwrap()).code(), Some(1));
    let said = said.all();
    assert!(said.lines().count() == 2 && said.contains(why), "{said}");
    assert_eq!(host.state("appvm"), "failed");
    // It was killed then, and not by this.
    host.run(&["stop", "appvm"]).exits(0).says_nothing();

    // On a terminal a line counts down, and is gone in the end.
    hang();
    let stop = host.machine.command("env", ["TERM=xterm", INSTALLED, "stop", "appvm"]);
    let mut terminal = Terminal::start(&stop, 24, 120);
    let seconds = |left: u32| format!("appvm: waiting for the guest to power off; it is killed in {left} s");
    wait_or_explain(
        "two numbers of seconds",
        || ((0..=30).filter(|left| terminal.text().contains(&seconds(*left))).count() >= 2).then_some(()),
        || terminal.text(),
    );
    kill();
    assert_eq!(terminal.end().code(), Some(1));
    terminal.wait_for(why);

    // Nothing of a VM that was removed stays failed.
    assert_eq!(host.machine.property(unit, "ActiveState"), "failed");
    fs::remove_dir_all(directory).unwrap();
    host.sync();
    assert_eq!(host.machine.property(unit, "ActiveState"), "inactive");
}

#[test]
fn vms_that_start_with_the_host_do() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("auto");
    host.vm("manual");
    host.configure("[vm.auto]\nautostart = true\n");
    // As at boot: nothing is installed yet.
    host.ok(&["systemctl", "start", "microvm-spectrum-sync.service"]);
    host.machine.wait_active("microvm@auto.service");
    assert_eq!(host.state("manual"), "stopped");
    host.machine.wait_active("microvms.target");
    // A mistake in the configuration keeps nothing from starting at the next boot.
    host.run(&["stop", "auto"]).exits(0);
    host.ok(&["systemctl", "stop", "microvms.target"]);
    let config = host.machine.read("/etc/microvm-spectrum/config.toml");
    host.machine.write("/etc/microvm-spectrum/config.toml", &format!("{config}mistake\n"));
    fs::remove_dir_all(host.machine.path("/run/userdb")).unwrap();
    let unit = "microvm-spectrum-sync.service";
    assert_ne!(host.machine.run(&["systemctl", "restart", unit]).status, 0);
    assert_eq!(host.machine.property(unit, "ExecMainStatus"), "2");
    host.machine.wait_active("microvm@auto.service");
    // Nor does one broken VM, which is no failure of the host's. Running VMs go on.
    host.wait_boots("auto", 2);
    let broken = host.vm("broken");
    fs::remove_file(broken.join("vmlinux")).unwrap();
    host.machine.write("/etc/microvm-spectrum/config.toml", &config);
    let process = || host.machine.property("microvm@auto.service", "MainPID");
    let before = process();
    host.ok(&["systemctl", "restart", unit]);
    assert_eq!(host.machine.property(unit, "ExecMainStatus"), "1");
    assert_eq!(host.machine.property(unit, "ActiveState"), "active");
    assert_eq!((process(), host.state("broken").as_str()), (before, "broken"));
    fs::remove_dir_all(broken).unwrap();
    // The administrator stops it, and another sync leaves it so; a new one starts.
    host.run(&["stop", "auto"]).exits(0);
    host.vm("late");
    host.configure("[vm.auto]\nautostart = true\n[vm.late]\nautostart = true\n");
    host.sync();
    host.machine.wait_active("microvm@late.service");
    assert_eq!(host.state("auto"), "stopped");
    // The generator's link is what systemd goes by.
    host.run(&["stop", "late"]).exits(0);
    host.ok(&["systemctl", "stop", "microvms.target"]);
    host.ok(&["systemctl", "start", "microvms.target"]);
    host.machine.wait_active("microvm@auto.service");
    host.machine.wait_active("microvm@late.service");
}

#[test]
fn a_user_that_a_vm_runs_as_is_given_to_no_other() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("first");
    host.sync();
    host.start("first");
    assert_eq!(host.row("first")["uid"], 70_000);
    // It has another user from its next start on, and runs as the first until then.
    host.configure("[vm.first]\nuid = 69000\n");
    host.vm("second");
    host.sync();
    assert_eq!(host.row("first")["stale"], serde_json::json!(["its user id is 69000 now"]));
    assert_eq!(host.row("second")["uid"], 70_001);
    host.configure("[vm.first]\nuid = 69000\n[vm.third]\nuid = 70000\n");
    host.vm("third");
    host.run(&["sync"]).exits(1).complains(&["cannot have the user id 70000, which user/first has"]);
    host.run(&["stop", "first"]).exits(0);
    host.sync();
    assert_eq!(host.row("third")["uid"], 70_000);
}
