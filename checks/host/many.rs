// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Many VMs at the same time.

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::{alone, is_possible};
use crate::support::waiting::wait_for;

/// How many.
const VMS: usize = 20;

#[test]
fn twenty_vms_at_once_keep_to_themselves() {
    needs!(is_possible());
    let _alone = alone();
    let host = Host::new();
    let names: Vec<_> = (0..VMS).map(|number| format!("vm-{number}")).collect();
    for name in &names {
        host.vm(name);
    }
    let autostart: String =
        names.iter().map(|name| format!("[vm.{name}]\nautostart = true\nmemory = 64\n")).collect();
    host.configure(&autostart);
    host.ok(&["systemctl", "start", "microvm-spectrum-sync.service"]);
    for name in &names {
        host.wait_boots(name, 1);
    }
    // Each has a user, a group and a serial console of its own.
    let mut uids = std::collections::BTreeSet::new();
    for name in &names {
        let pid = host.machine.property(&format!("microvm@{name}.service"), "MainPID");
        assert!(uids.insert(host.ok(&["stat", "--format=%u %g", &format!("/proc/{pid}")])), "{name}");
        let log = host.log(name);
        assert_eq!(log.matches("guest: ready").count(), 1, "{name}");
        assert!(!log.contains("microvm-spectrum:"), "{log}");
    }
    let list = host.run(&["list"]).exits(0).stdout;
    assert_eq!(list.lines().filter(|line| line.contains(" running ")).count(), VMS, "{list}");
    let all: Vec<_> = ["stop"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let stopped = host.run(&all);
    for name in names.iter().filter(|name| stopped.stderr.contains(&format!("{name} has stopped:"))) {
        eprintln!("{}", host.run(&["log", "--all", name]).stdout);
    }
    stopped.exits(0);
    assert!(host.processes("qemu-system").is_empty());
    wait_for("the end of all helpers", || {
        let units =
            host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "microvm@*", "microvm-*@*"]);
        units.is_empty().then_some(())
    });
}
