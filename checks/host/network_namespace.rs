// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The network namespace of VMs: what manages the host's network has no part in theirs.

use std::time::Duration;

use crate::support::installed::{Host, INSTALLED};
use crate::support::links::{
    NAMESPACE, PROVIDER, address, answers, client, in_namespace, link, seen_by_the_host, traces, traces_of,
    wait_answers, wait_plugged,
};
use crate::support::skip::{needs, skipped};
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// A guest that offers every client an address and a route.
const OFFERS: &str = "printf 'interface eth0\nstart 10.99.0.10\nend 10.99.0.20\nopt router 10.99.0.1\n\
     opt subnet 255.255.255.0\nlease_file /tmp/leases\npidfile /tmp/pid\n' >/tmp/udhcpd.conf; \
     touch /tmp/leases; ip address add 10.99.0.1/24 dev eth0; udhcpd -S /tmp/udhcpd.conf && echo offers";

/// What the host has of addresses and routes, but for its own interface `other`.
fn network(host: &Host) -> String {
    let script = "ip -oneline address show | grep -v ': other ' | cut -d' ' -f2-6; \
                  ip route show table all | grep -v ' dev other'";
    host.ok(&["sh", "-c", script])
}

#[test]
fn nothing_that_manages_the_hosts_network_takes_an_address_from_a_guest() {
    needs!(is_possible());
    let host = Host::new();
    // As if none of them knew of links.
    for file in ["systemd/network/10-microvm-spectrum.network", "udev/rules.d/85-microvm-spectrum.rules"] {
        std::fs::remove_file(host.machine.path(&format!("/usr/local/lib/{file}"))).unwrap();
    }
    let all = "[Match]\nName=*\n[Network]\nDHCP=yes\nLinkLocalAddressing=yes\nIPv6AcceptRA=yes\n";
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let before = network(&host);
    // Something that they may have.
    host.ok(&[
        "sh",
        "-c",
        "ip link add name other type veth peer name peer; ip link set other up; ip link set peer up",
    ]);
    let mut managers = Vec::new();
    for (manager, program) in [
        ("dhcpcd", "/usr/sbin/dhcpcd"),
        ("systemd-networkd", "/lib/systemd/systemd-networkd"),
        ("NetworkManager", "/usr/sbin/NetworkManager"),
    ] {
        if host.machine.path(program).exists() {
            managers.push(manager);
        } else {
            skipped(&format!("{manager} beside links"), "it is not installed");
        }
    }
    let run = |manager: &str| match manager {
        "dhcpcd" => host.ok(&[
            "systemd-run",
            "--quiet",
            "--unit=dhcpcd",
            "dhcpcd",
            "--nobackground",
            "--denyinterfaces",
            "peer",
        ]),
        "systemd-networkd" => {
            host.machine.write("/etc/systemd/network/50-all.network", &all.replace("Name=*", "Name=!peer"));
            host.ok(&["systemctl", "start", "systemd-networkd.service"])
        }
        _ => host.ok(&["systemctl", "start", "NetworkManager.service"]),
    };
    managers.iter().for_each(|manager| drop(run(manager)));
    host.start("app");
    let id = link(&host, "app", "netvm");
    wait_plugged(&host, "netvm", &[&id]);
    assert_eq!(host.in_guest("netvm", OFFERS), "offers");
    wait_answers(&host, "app", PROVIDER);
    if managers.contains(&"dhcpcd") || managers.contains(&"systemd-networkd") {
        // They do take what they can get.
        wait_for("an address of their own making", || {
            host.ok(&["ip", "-oneline", "address", "show", "dev", "other"]).contains("169.254.").then_some(())
        });
    }
    // Longer than they take to ask a guest's server.
    std::thread::sleep(Duration::from_secs(10));
    let after = network(&host);
    for taken in ["10.99.0.", "vmb-", "vmc-", "vmr-", "default via"] {
        assert!(!after.contains(taken), "{managers:?}: {taken} in\n{after}\nbefore\n{before}");
    }
    assert_eq!(seen_by_the_host(&host), [""; 0]);
    assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]));
    assert!(!host.in_guest("netvm", "pidof udhcpd").is_empty(), "the guest's server has ended");
}

#[test]
fn a_firewall_of_the_hosts_that_is_flushed_changes_no_link() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let id = link(&host, "app", "netvm");
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    let rules = || host.ok(&in_namespace(&["nft", "list", "ruleset"]));
    let before = rules();
    assert!(before.contains("policy drop"), "{before}");
    host.ok(&["nft", "flush", "ruleset"]);
    assert_eq!(rules(), before);
    wait_answers(&host, "app", PROVIDER);
    let other = if address(&id) == "100.64.1.1" { "100.64.1.2" } else { "100.64.1.1" };
    host.in_guest("app", &format!("ip address add {other}/32 dev eth0"));
    assert!(!answers(&host, "app", &format!("-I {other} {PROVIDER}")), "a wrong sender passes");

    // Each monitor is in it, and sees no network of the host's.
    let inode = |path: &str| host.ok(&["stat", "--dereference", "--format=%i", path]);
    let namespace = inode(&format!("/run/netns/{NAMESPACE}"));
    for vm in ["app", "netvm"] {
        let [pid] = host.processes(&format!("qemu-system-[^ ]* -name guest={vm},")).try_into().unwrap();
        assert_eq!(inode(&format!("/proc/{pid}/ns/net")), namespace, "{vm}");
    }
    // It is made once, and again where a file of that name is left that is none.
    host.run(&["host", "network-up"]).exits(0).says_nothing();
    assert_eq!(inode(&format!("/run/netns/{NAMESPACE}")), namespace);
    host.run(&["stop", "app", "netvm"]).exits(0);
    host.ok(&["ip", "netns", "delete", NAMESPACE]);
    host.machine.write(&format!("/run/netns/{NAMESPACE}"), "");
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
}

#[test]
fn vms_of_a_version_without_a_namespace_keep_their_links_until_they_stop() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    client(&host, "later", &["netvm"]);
    host.sync();
    // As that version started them: no drop-in names a namespace.
    let script = "sed -i '/etwork/d' /run/systemd/generator/microvm*@*.service.d/50-microvm-spectrum.conf";
    let write_without = format!("#!/bin/sh\n{INSTALLED} host generate \"$@\"\n");
    let generator = "/usr/local/lib/systemd/system-generators/microvm-spectrum-generator";
    let own = host.machine.read(generator);
    let script = script.replace("/run/systemd/generator", "$1");
    host.machine.write(generator, &format!("{write_without}{script}\n"));
    host.ok(&["systemctl", "daemon-reload"]);
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    let id = link(&host, "app", "netvm");
    assert_eq!(seen_by_the_host(&host).len(), 4);

    // The upgrade.
    host.machine.write(generator, &own);
    host.ok(&["systemctl", "daemon-reload"]);
    wait_answers(&host, "app", PROVIDER);
    host.ok(&["systemctl", "restart", "microvm@netvm.service"]);
    wait_answers(&host, "app", PROVIDER);
    host.start("later");
    wait_answers(&host, "later", PROVIDER);
    host.run(&["stop", "app", "later", "netvm"]).exits(0);
    assert_eq!(traces(&host), [""; 0]);
    // None of them is left: the next ones have the namespace.
    host.ok(&["systemctl", "daemon-reload"]);
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(seen_by_the_host(&host), [""; 0]);
    assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]));
}
