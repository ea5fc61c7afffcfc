// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Monitors that were taken over and refuse to stop: the host shuts down with
//! twenty of them, and each stops, as soon as if they were only slow.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::support::installed::{Host, PARTITION};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_or_explain;

/// How many.
const VMS: usize = 20;
/// How much longer than one unit a whole machine may take, on one that is busy.
const REST: Duration = Duration::from_secs(120);

/// A host where this stands in for QEMU, and so many VMs that start with it.
fn host(vms: usize) -> Host {
    let host = Host::new();
    let monitor = "/usr/local/bin/monitor";
    host.machine.write(monitor, include_str!("hostile_monitor/monitor.pl"));
    fs::set_permissions(host.machine.path(monitor), fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{PARTITION}'\nautostart = true\n\
         [defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 64\n[tools]\nqemu-system-x86_64 = '{monitor}'\n"
    );
    host.machine.write("/etc/microvm-spectrum/config.toml", &config);
    for number in 0..vms {
        host.vm(&format!("vm-{number}"));
    }
    host.sync();
    let names: Vec<_> = (0..vms).map(|number| format!("vm-{number}")).collect();
    host.run(&[vec!["start"], names.iter().map(String::as_str).collect()].concat()).exits(0);
    for name in &names {
        let attacked = || host.machine.path(&report(name)).exists().then_some(());
        wait_or_explain(&format!("{name}'s attack"), attacked, || host.run(&["log", "--all", name]).stdout);
    }
    host
}

/// Where a monitor says what it could reach of its supervisor.
fn report(name: &str) -> String {
    format!("/run/microvm/{name}/report")
}

/// How long systemd gives a VM to stop: `1min 30s`, for one.
fn limit(host: &Host) -> Duration {
    let text = host.machine.property("microvm@vm-0.service", "TimeoutStopUSec");
    let part = |part: &str| {
        let (number, unit) = part.split_at(part.find(|c: char| !c.is_ascii_digit()).unwrap());
        let seconds = match unit {
            "min" => 60,
            "s" => 1,
            _ => panic!("{text}"),
        };
        Duration::from_secs(seconds * number.parse::<u64>().unwrap())
    };
    text.split(' ').map(part).sum()
}

#[test]
fn a_host_with_twenty_hostile_monitors_shuts_down_in_time() {
    needs!(is_possible());
    let host = host(VMS);
    let reached = (0..VMS).map(|number| host.machine.read(&report(&format!("vm-{number}"))));
    let reached: Vec<_> = reached.filter(|report| report != "reached: \n").collect();
    let limit = limit(&host);
    let begun = Instant::now();
    host.ok(&["systemctl", "poweroff"]);
    let patience = limit + REST;
    let runs = || host.machine.path("/.").exists();
    while runs() && begun.elapsed() < patience {
        std::thread::sleep(Duration::from_millis(100));
    }
    let took = begun.elapsed();
    let _ = writeln!(
        std::io::stderr(),
        "{VMS} hostile monitors, {} of which reached their supervisors' memory; power off took {took:.0?}",
        reached.len()
    );
    assert!(!runs(), "still not powered off after {took:.0?}, and a VM has {limit:?} to stop");
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn a_hostile_monitor_is_stopped_in_time() {
    needs!(is_possible());
    let host = host(2);
    let limit = limit(&host);
    for name in ["vm-0", "vm-1"] {
        let unit = format!("microvm@{name}.service");
        host.ok(&["systemctl", "stop", "--no-block", &unit]);
    }
    let begun = Instant::now();
    let active = |name: &str| {
        let state = host.machine.property(&format!("microvm@{name}.service"), "ActiveState");
        !matches!(state.as_str(), "inactive" | "failed")
    };
    while (active("vm-0") || active("vm-1")) && begun.elapsed() < limit + REST {
        std::thread::sleep(Duration::from_millis(200));
    }
    let left: Vec<_> = ["vm-0", "vm-1"].into_iter().filter(|name| active(name)).collect();
    assert!(left.is_empty(), "{left:?} still run after {:.0?}, of {limit:?}", begun.elapsed());
    assert!(host.processes("perl /usr/local/bin/monitor").is_empty());
}
