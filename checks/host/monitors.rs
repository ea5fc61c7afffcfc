// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A virtual machine monitor that was taken over and will not stop, and readers of its
//! images who would keep it from starting.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::support::guest::part;
use crate::support::installed::{Host, PARTITION};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// What stands in for QEMU, and starts it.
const STAND_IN: &str = "/opt/stand-in";
/// How long the unit may take to stop.
const LIMIT: Duration = Duration::from_secs(8);
/// For a machine that is busy.
const SLACK: Duration = Duration::from_secs(12);

#[test]
fn a_monitor_that_was_taken_over_stops_within_the_units_limit() {
    needs!(is_possible());
    let host = Host::new();
    let qemu = part("QEMU").display().to_string();
    // systemd would believe whom it takes for the supervisor, and wait for ten minutes.
    let script = format!(
        "#!/bin/sh
        '{qemu}' \"$@\" &
        trap '' TERM
        while [ ! -e go ]; do sleep 0.1; done
        for file in mem environ maps fd/2; do
            if (exec 3<>/proc/$PPID/$file) 2>/dev/null; then echo \"opens the supervisor's $file\"; fi
        done
        export NOTIFY_SOCKET=/run/systemd/notify
        systemd-notify --pid=$PPID EXTEND_TIMEOUT_USEC=600000000
        echo 'attacked'
        while [ ! -e stop ]; do sleep 0.1; done
        while :; do
            kill -STOP $PPID
            systemd-notify EXTEND_TIMEOUT_USEC=600000000
            systemd-notify --pid=$PPID EXTEND_TIMEOUT_USEC=600000000
        done"
    );
    host.machine.write(STAND_IN, &script);
    std::fs::set_permissions(host.machine.path(STAND_IN), Permissions::from_mode(0o755)).unwrap();
    let config = "/etc/microvm-spectrum/config.toml";
    host.machine.write(config, &host.machine.read(config).replace(&qemu, STAND_IN));
    let limit = format!("[Service]\nTimeoutStopSec={}s\n", LIMIT.as_secs());
    host.machine.write("/run/systemd/system/microvm@appvm.service.d/limit.conf", &limit);
    host.vm("appvm");
    host.sync();
    host.start("appvm");
    host.machine.write("/run/microvm/appvm/go", "");
    wait_for("the attack", || host.log("appvm").contains("attacked").then_some(()));
    assert!(!host.log("appvm").contains("opens"), "{}", host.log("appvm"));

    host.machine.write("/run/microvm/appvm/stop", "");
    let [supervisor] = host.processes("microvm-spectrum vm run").try_into().unwrap();
    wait_for("the supervisor to be stopped", || {
        let status = host.machine.read(&format!("/proc/{supervisor}/status"));
        status.contains("State:\tT").then_some(())
    });
    let begun = Instant::now();
    host.run(&["stop", "appvm"]);
    let took = begun.elapsed();
    assert!(took < LIMIT + SLACK, "{took:?}");
    assert_eq!(host.processes(STAND_IN), Vec::<String>::new());
    assert!(!host.machine.path("/run/microvm/appvm").exists());
}

#[test]
fn who_may_read_an_image_cannot_keep_a_vm_from_starting() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.sync();
    // All bytes, those that QEMU would lock included.
    let image = File::open(host.machine.path(&format!("{PARTITION}/root.img"))).unwrap();
    rustix::fs::fcntl_lock(&image, FlockOperation::NonBlockingLockShared).unwrap();
    host.start("appvm");
}

#[test]
fn a_client_that_removes_its_own_tap_gets_it_back_with_its_next_start() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    let providers = host.vm("appvm").join("providers/net");
    std::fs::create_dir_all(&providers).unwrap();
    std::fs::write(providers.join("netvm"), "").unwrap();
    // Time to remove it.
    let slow = "[Service]\nRestartSec=5s\n";
    host.machine.write("/run/systemd/system/microvm@appvm.service.d/slow.conf", slow);
    host.sync();
    host.start("appvm");
    let uid = host.row("appvm")["uid"].to_string();
    let tap = host.ok(&["cat", "/var/lib/microvms/appvm/booted/share/microvm/tap-interfaces"]);
    host.ok(&["pkill", "-KILL", "--uid", &uid, "qemu-system|^appvm$"]);
    let provider = host.machine.property("microvm@netvm.service", "MainPID");
    let [reuid, regid] = ["reuid", "regid"].map(|option| format!("--{option}={uid}"));
    let line = ["nsenter", "--target", &provider, "--net", "setpriv", &reuid, &regid, "--clear-groups"];
    let remove = ["ip", "tuntap", "del", "dev", &tap, "mode", "tap"];
    let line = [line.as_slice(), &["--bounding-set=-all", "--inh-caps=-all"], &remove].concat();
    wait_for("the end of the tap", || (host.machine.run(&line).status == 0).then_some(()));
    host.wait_boots("appvm", 2);
    let link = ["nsenter", "--target", &provider, "--net", "ip", "link", "show", "dev", &tap];
    assert!(host.ok(&link).contains(" master "), "{}", host.ok(&link));
}
