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
use crate::support::links::{PROVIDER, client, in_namespace, link, wait_answers};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// What stands in for QEMU, and starts it.
const STAND_IN: &str = "/opt/stand-in";
/// How long the unit may take to stop.
const LIMIT: Duration = Duration::from_secs(8);
/// For a machine that is busy.
const SLACK: Duration = Duration::from_secs(90);

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
    wait_for("the end of its directory", || {
        (!host.machine.path("/run/microvm/appvm").exists()).then_some(())
    });
}

/// A package of another program, whose monitor is all that it starts.
#[test]
fn the_monitor_of_another_programs_package_stops_within_the_units_limit() {
    needs!(is_possible());
    let host = Host::new();
    let install = |text: &str| {
        host.machine.write("/opt/foreign/bin/microvm-run", text);
        host.ok(&["chmod", "755", "/opt/foreign/bin/microvm-run"]);
    };
    let unit = "microvm@foreign.service";
    let property = |name: &str| host.machine.property(unit, name);
    host.machine.mkdir("/var/lib/microvms/foreign");
    host.ok(&["ln", "-s", "/opt/foreign", "/var/lib/microvms/foreign/current"]);
    let limit = format!("[Service]\nTimeoutStopSec={}s\nRestart=no\n", LIMIT.as_secs());
    host.machine.write(&format!("/run/systemd/system/{unit}.d/limit.conf"), &limit);
    host.ok(&["systemctl", "daemon-reload"]);

    // How it ends is how the unit ends.
    // systemd forgets a unit that has not failed: one that SIGTERM ends.
    for (text, state, code, status) in [
        ("exit 7", "failed", "1", "7"),
        ("kill -KILL $$", "failed", "2", "9"),
        ("kill -TERM $$", "inactive", "", ""),
    ] {
        install(&format!("#!/bin/sh\n{text}\n"));
        host.machine.run(&["systemctl", "start", unit]);
        wait_for(text, || (property("ActiveState") == state).then_some(()));
        if state == "failed" {
            assert_eq!((&*property("ExecMainCode"), &*property("ExecMainStatus")), (code, status), "{text}");
        }
        host.machine.run(&["systemctl", "reset-failed", unit]);
    }
    install("#!/bin/sh\ntrap 'echo told; exit 0' TERM\necho up\nwhile :; do sleep 0.1; done\n");
    host.run(&["start", "foreign"]).exits(0);
    wait_for("its start", || host.log("foreign").contains("up").then_some(()));
    host.run(&["stop", "foreign"]).exits(0);
    assert!(host.log("foreign").contains("told"));
    assert_eq!((&*property("Result"), &*property("ExecMainStatus")), ("success", "0"));

    // It says to systemd, again and again, that it needs more time.
    install(
        "#!/usr/bin/perl
        use Socket;
        $SIG{$_} = 'IGNORE' for qw(TERM HUP INT);
        $| = 1;
        socket my $socket, AF_UNIX, SOCK_DGRAM, 0 or die;
        connect $socket, sockaddr_un($ENV{NOTIFY_SOCKET} || '/run/systemd/notify') or die;
        for my $file ('mem', 'environ', 'fd/0') {
            print \"opens the $file of its parent\\n\" if open my $of, '<', '/proc/' . getppid . \"/$file\";
        }
        print \"attacks\\n\";
        while (1) {
            send $socket, 'EXTEND_TIMEOUT_USEC=900000000', 0;
            select undef, undef, undef, 0.1;
        }
        ",
    );
    host.run(&["start", "foreign"]).exits(0);
    wait_for("the attack", || host.log("foreign").contains("attacks").then_some(()));
    assert!(!host.log("foreign").contains("opens"), "{}", host.log("foreign"));
    let begun = Instant::now();
    let stopped = host.machine.run(&["timeout", "300", "systemctl", "stop", unit]);
    assert!(stopped.status != 124, "it still runs after {:?}", begun.elapsed());
    assert_eq!(property("Result"), "timeout");
    assert!(host.processes("/usr/bin/perl").is_empty());
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

/// `netvm`, and its client `appvm`, which stays down when its monitor ends.
fn provider_and_client() -> Host {
    let host = Host::new();
    host.vm("netvm");
    client(&host, "appvm", &["netvm"]);
    let slow = "[Service]\nRestartSec=1000s\n";
    host.machine.write("/run/systemd/system/microvm@appvm.service.d/slow.conf", slow);
    host.sync();
    host.start("appvm");
    host
}

#[test]
fn a_client_that_removes_its_tap_or_gives_it_away_gets_it_back() {
    needs!(is_possible());
    let host = provider_and_client();
    let (uid, tap) = (host.row("appvm")["uid"].to_string(), format!("vmc-{}", link(&host, "appvm", "netvm")));
    let owner = || {
        let shown = host.ok(&in_namespace(&["ip", "-json", "-details", "link", "show", "dev", &tap]));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert!(shown[0]["master"].is_string(), "{shown}");
        shown[0]["linkinfo"]["info_data"]["user"].to_string()
    };
    let own = owner();
    assert!(own.contains(&uid), "{own}");
    // TUNSETIFF and TUNSETOWNER, for which who owns it needs no right.
    let give = format!(
        "open my $tun, '+<', '/dev/net/tun' or die $!; \
         my $request = pack('a16 s x22', '{tap}', 0x5002); \
         ioctl($tun, 0x400454ca, $request) or die $!; \
         ioctl($tun, 0x400454cc, 4343) or die $!;"
    );
    let remove = ["ip", "tuntap", "del", "dev", &tap, "mode", "tap"];
    let [reuid, regid] = ["reuid", "regid"].map(|option| format!("--{option}={uid}"));
    let as_user = ["setpriv", &reuid, &regid, "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    for (number, attack) in [remove.as_slice(), &["perl", "-e", &give]].into_iter().enumerate() {
        host.ok(&["pkill", "-KILL", "--uid", &uid, "qemu-system|^appvm$"]);
        let line = [as_user.as_slice(), attack].concat();
        let line = in_namespace(&line);
        wait_for("the end of the tap", || (host.machine.run(&line).status == 0).then_some(()));
        if attack != remove {
            assert_eq!(owner(), "4343");
        }
        // By hand, and with the next start.
        let user = format!("MICROVM_SPECTRUM_USER={uid}");
        let tap_up = ["env", &user, "/var/lib/microvms/appvm/booted/bin/tap-up"];
        host.ok(&in_namespace(&tap_up));
        assert_eq!(owner(), own);
        host.ok(&["systemctl", "restart", "microvm@appvm.service"]);
        host.wait_boots("appvm", number + 2);
        assert_eq!(owner(), own);
        wait_answers(&host, "appvm", PROVIDER);
    }
}

#[test]
fn a_link_that_dies_is_reported_until_the_client_starts_again() {
    needs!(is_possible());
    let host = provider_and_client();
    let id = link(&host, "appvm", "netvm");
    for (side, boots) in [("vmc", 2), ("vmr", 3)] {
        assert!(host.row("appvm")["detail"].is_null());
        host.ok(&in_namespace(&["ip", "link", "delete", "dev", &format!("{side}-{id}")]));
        let text =
            format!("a link is dead: {id} of appvm to netvm has lost its tap {side}-{id}: restart appvm");
        wait_for("its report", || (host.row("appvm")["detail"] == text.as_str()).then_some(()));
        assert!(host.run(&["list"]).exits(0).stdout.contains(&text));
        host.ok(&["journalctl", "--sync"]);
        let log = host.run(&["log", "--all", "appvm"]).stdout;
        assert_eq!(log.matches(&text).count(), boots - 1 - usize::from(side == "vmr"), "{log}");
        host.run(&["restart", "appvm"]).exits(0);
        host.wait_boots("appvm", boots);
        wait_answers(&host, "appvm", PROVIDER);
    }
}
