// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The unit files themselves, as systemd judges them.

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;

/// The units of one VM, and those of all.
const UNITS: [&str; 11] = [
    "microvm@appvm.service",
    "microvm-virtiofsd@appvm.service",
    "microvm-uplink@appvm.service",
    "microvm-tap-interfaces@appvm.service",
    "microvm-pci-devices@appvm.service",
    "microvm-set-booted@appvm.service",
    "microvm-spectrum-network.service",
    "microvm-spectrum-sync.service",
    "microvm-spectrum-resync.service",
    "microvm-spectrum-rescan@user.service",
    "microvms.target",
];

#[test]
fn systemd_finds_nothing_to_complain_of_and_little_that_is_exposed() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    // Not the manual pages, which this machine has not installed.
    let verify = ["systemd-analyze", "verify", "--man=no"];
    let ran = host.machine.run(&[verify.as_slice(), &UNITS].concat()).exits(0);
    ran.says_nothing();
    let bounds = [
        ("microvm@appvm.service", 0.9),
        ("microvm-virtiofsd@appvm.service", 3.4),
        ("microvm-set-booted@appvm.service", 3.9),
        ("microvm-uplink@appvm.service", 3.0),
        ("microvm-pci-devices@appvm.service", 4.0),
        ("microvm-spectrum-sync.service", 3.0),
        ("microvm-spectrum-resync.service", 3.0),
    ];
    for (unit, most) in bounds {
        let told = host.ok(&["systemd-analyze", "security", "--no-pager", unit]);
        let figure = told.lines().last().unwrap().split(": ").nth(1).unwrap();
        let figure: f64 = figure.split(' ').next().unwrap().parse().unwrap();
        assert!(figure <= most, "{unit}: {figure}\n{told}");
    }
    let calls = host.machine.property("microvm@appvm.service", "SystemCallFilter");
    let calls: Vec<_> = calls.split(' ').collect();
    assert!(calls.contains(&"read"), "{calls:?}");
    for call in ["ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"] {
        assert!(!calls.contains(&call), "{call}");
    }
    // The template alone is safe.
    for unit in ["microvm@unknown.service", "microvm@appvm.service"] {
        assert_ne!(host.machine.property(unit, "User"), "root");
        assert_ne!(host.machine.property(unit, "User"), "");
    }
    assert_eq!(host.machine.property("microvm@unknown.service", "User"), "microvm");
    assert_eq!(host.machine.property("microvm@appvm.service", "User"), "70000");
}

#[test]
fn a_monitor_in_its_unit_has_no_capability_and_sees_few_devices() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    host.start("appvm");
    // No start of another VM has a process make the network namespace that is there.
    let network = "microvm-spectrum-network.service";
    assert_eq!(host.machine.property(network, "ConditionResult"), "yes");
    host.ok(&["systemctl", "start", network]);
    assert_eq!(host.machine.property(network, "ConditionResult"), "no");
    for pattern in ["qemu-system", "microvm-spectrum vm run"] {
        let [pid] = host.processes(pattern).try_into().unwrap();
        let status = host.machine.read(&format!("/proc/{pid}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("{name}")).trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{pattern}: {set}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{pattern}");
        assert_eq!(field("Uid"), ["70000"; 4].join("\t"), "{pattern}");
    }
    // virtiofsd is an ordinary user, in namespaces of its own.
    for pid in host.processes("virtiofsd --fd") {
        let status = host.machine.read(&format!("/proc/{pid}/status"));
        assert!(
            status.contains("Uid:\t4242\t4242\t4242\t4242") && status.contains("Groups:\t \n"),
            "{status}"
        );
    }
}
