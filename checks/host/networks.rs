// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Links between VMs, with real guests: who reaches whom, and at which address.
//! What goes wrong is another module's (`networks_failures`).

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::installed::Host;
use crate::support::links::{
    PROVIDER, Qmp, address, answers, client, echoes, host_heard, in_namespace, leases, link, mac, said,
    supervisor, told, traces, traces_of, wait_answers, wait_plugged,
};
use crate::support::program::Ran;
use crate::support::skip::{needs, skipped};
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// Longer than what failed once takes to be tried again, twice.
const SOON: Duration = Duration::from_millis(2500);

#[test]
fn clients_reach_their_provider_and_what_it_forwards() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "one", &["netvm"]);
    client(&host, "two", &["netvm"]);
    // Something of the host's own that no guest has to do with.
    host.ok(&["ip", "link", "set", "dev", "lo", "up"]);
    host.ok(&["ip", "address", "add", "198.51.100.1/32", "dev", "lo"]);
    host.sync();
    let (one, two) = (link(&host, "one", "netvm"), link(&host, "two", "netvm"));
    assert_eq!(host.row("one")["addresses"], json!([address(&one)]));
    assert_eq!(traces(&host), [""; 0]);

    // A client starts its provider, and after it.
    host.run(&["start", "one", "two"]).exits(0).says_nothing();
    let time = |vm: &str, what: &str| -> u64 {
        host.machine.property(&format!("microvm@{vm}.service"), what).parse().unwrap()
    };
    for vm in ["one", "two"] {
        let (ready, start) =
            (time("netvm", "ActiveEnterTimestampMonotonic"), time(vm, "ExecMainStartTimestampMonotonic"));
        assert!(0 < ready && ready < start, "{vm}: {ready} {start}");
    }
    assert_eq!(traces(&host), traces_of(&[(&one, "netvm"), (&two, "netvm")]));
    wait_plugged(&host, "netvm", &[&one, &two]);
    for (vm, id) in [("one", &one), ("two", &two)] {
        host.wait_boots(vm, 1);
        wait_for("the client's address", || {
            told(&host.log(vm), &format!("guest: eth0 client {}", address(id))).then_some(())
        });
        assert_eq!(host.in_guest(vm, "cat /sys/class/net/eth*/address"), mac(id, false));
        wait_answers(&host, vm, PROVIDER);
    }
    // One interface for each client, in whatever order they came.
    let macs = host.in_guest("netvm", "cat /sys/class/net/eth*/address | sort");
    let mut wanted = [mac(&one, true), mac(&two, true)];
    wanted.sort();
    assert_eq!(macs, wanted.join("\n"));

    // A way out: QEMU's own small network, whose router 10.0.2.2 answers.
    let mut qmp = Qmp::of(&host, "netvm");
    qmp.execute("netdev_add", &json!({"type": "user", "id": "out"}));
    let device = json!({
        "driver": "virtio-net-pci", "id": "out", "netdev": "out", "bus": "port7",
        "mac": "02:00:00:00:00:01", "romfile": "",
    });
    qmp.execute("device_add", &device);
    drop(qmp);
    let find = "grep -l 02:00:00:00:00:01 /sys/class/net/*/address | cut -d/ -f5";
    let out = wait_for("the way out", || Some(host.in_guest("netvm", find)).filter(|name| !name.is_empty()));
    host.in_guest(
        "netvm",
        &format!(
            "ip link set {out} up; ip address add 10.0.2.15/24 dev {out}; \
             echo 1 >/proc/sys/net/ipv4/conf/{out}/proxy_arp"
        ),
    );
    wait_answers(&host, "netvm", "10.0.2.2");
    let beyond = [("one", "10.0.2.2".to_owned()), ("one", address(&two)), ("two", address(&one))];
    // The provider decides whether there is anything but itself.
    for (vm, target) in &beyond {
        assert!(!answers(&host, vm, target), "{vm} reaches {target}");
    }
    host.in_guest("netvm", "echo 1 >/proc/sys/net/ipv4/ip_forward");
    for (vm, target) in &beyond {
        wait_answers(&host, vm, target);
    }
    host.in_guest("netvm", "echo 0 >/proc/sys/net/ipv4/ip_forward");
    for (vm, target) in &beyond {
        assert!(!answers(&host, vm, target), "{vm} reaches {target} again");
    }

    // No socket is where the packets pass: the host has no part in it.
    for vm in ["one", "netvm"] {
        assert!(!answers(&host, vm, "198.51.100.1"), "{vm} reaches the host");
    }
    assert_eq!(host_heard(&host), 0);
    for interface in [format!("vmb-{one}"), format!("vmc-{one}"), format!("vmr-{one}")] {
        let addresses = ["ip", "-oneline", "address", "show", "dev", &interface];
        assert_eq!(host.ok(&in_namespace(&addresses)), "", "{interface}");
    }

    // A guest that takes another's address is not heard.
    let heard = || echoes(&host.in_guest("netvm", "cat /proc/net/snmp"));
    let before = heard();
    host.in_guest("one", &format!("ip address add {}/32 dev eth0", address(&two)));
    assert!(!answers(&host, "one", &format!("-I {} {PROVIDER}", address(&two))));
    assert_eq!(heard(), before, "under another's address");
    let change = |mac: &str| {
        format!("ifconfig eth0 down; ifconfig eth0 hw ether {mac} up; ip route add {PROVIDER} dev eth0")
    };
    host.in_guest("one", &change(&mac(&two, false)));
    assert!(!answers(&host, "one", &format!("-I {} {PROVIDER}", address(&one))));
    assert_eq!(heard(), before, "under another's MAC address");
    // And its own were not taken from it.
    host.in_guest("one", &change(&mac(&one, false)));
    wait_answers(&host, "one", &format!("-I {} {PROVIDER}", address(&one)));
    assert!(heard() > before);
    wait_answers(&host, "two", PROVIDER);

    // A provider without clients runs on, and the host is as before.
    host.run(&["stop", "one", "two"]).exits(0);
    assert_eq!(traces(&host), [""; 0]);
    assert_eq!(host.state("netvm"), "running");
    wait_for("the interfaces' end", || Qmp::of(&host, "netvm").links().is_empty().then_some(()));
}

#[test]
fn a_client_of_two_providers_has_two_interfaces() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    host.vm("vpn");
    client(&host, "app", &["netvm", "vpn"]);
    host.sync();
    let links = ["netvm", "vpn"].map(|provider| (link(&host, "app", provider), provider));
    assert_eq!(
        host.row("app")["addresses"],
        json!(links.iter().map(|(id, _)| address(id)).collect::<Vec<_>>())
    );
    host.start("app");
    let [(netvm, _), (vpn, _)] = &links;
    assert_eq!(traces(&host), traces_of(&[(netvm, "netvm"), (vpn, "vpn")]));
    for (index, (id, provider)) in links.iter().enumerate() {
        wait_plugged(&host, provider, &[id]);
        let line = format!("guest: eth{index} client {}", address(id));
        wait_for(&line, || told(&host.log("app"), &line).then_some(()));
        assert_eq!(host.in_guest("app", &format!("cat /sys/class/net/eth{index}/address")), mac(id, false));
        assert_eq!(host.in_guest(provider, "cat /sys/class/net/eth*/address"), mac(id, true));
        wait_answers(&host, "app", &format!("-I eth{index} {PROVIDER}"));
    }
    // One of them goes: the other is as before.
    let app = supervisor(&host, "app");
    host.run(&["stop", "vpn"]).exits(0);
    wait_answers(&host, "app", &format!("-I eth0 {PROVIDER}"));
    assert!(!answers(&host, "app", &format!("-I eth1 {PROVIDER}")));
    assert_eq!(supervisor(&host, "app"), app);
}

#[test]
fn an_interface_that_is_replaced_while_the_guest_configures_it_is_configured() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("app");
    host.wait_boots("app", 1);
    wait_answers(&host, "app", PROVIDER);
    // What configures interfaces begins anew, and waits in the middle of the first.
    host.in_guest(
        "netvm",
        "kill $(ps | awk '/[m]icrovm-guest interfaces/ { print $1 }'); touch /tmp/held
        echo 'ip() {
            [ $1 = address ] && while [ -e /tmp/held ]; do touch /tmp/waits; sleep 0.1; done
            command ip \"$@\"
        }' | cat - /usr/lib/microvm-spectrum/microvm-guest >/tmp/slow-guest
        sh /tmp/slow-guest interfaces &",
    );
    let in_netvm = |command: &str| {
        let command = format!("{command} && echo done");
        wait_for(&command, || (host.in_guest("netvm", &command).ends_with("done")).then_some(()));
    };
    in_netvm("[ -e /tmp/waits ] && cp /sys/class/net/eth0/ifindex /tmp/first");
    host.run(&["restart", "app"]).exits(0);
    // A guest that is slow still has the old one beside it.
    in_netvm("cat /sys/class/net/eth*/ifindex | grep -qvxf /tmp/first");
    in_netvm("rm -f /tmp/held");
    host.wait_boots("app", 2);
    wait_answers(&host, "app", PROVIDER);
    // Nor does a link stay without its addresses if something else in the guest takes them.
    for vm in ["netvm", "app"] {
        let flush = "for path in /sys/class/net/eth*; do ip link set ${path##*/} down; ip address flush dev ${path##*/}; done";
        host.in_guest(vm, flush);
        wait_answers(&host, "app", PROVIDER);
    }
}

#[test]
fn a_client_of_a_provider_that_has_another_user_is_stale() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    let stale = || host.row("app")["stale"].clone();
    let set_user = |uid: u32| {
        host.configure(&format!("[vm.netvm]\nuid = {uid}\n"));
        host.sync();
    };
    let why = json!(["its network provider netvm has another user id now"]);
    set_user(71_000);
    assert_eq!(stale(), json!([]));
    host.run(&["restart", "netvm"]).exits(0);
    assert_eq!(stale(), why);
    host.run(&["restart", "app"]).exits(0);
    assert_eq!(stale(), json!([]));
    host.wait_boots("app", 2);
    wait_answers(&host, "app", PROVIDER);
    // The other way round, and both at once: in the end the link is the provider's.
    set_user(72_000);
    host.run(&["restart", "app"]).exits(0);
    host.run(&["restart", "netvm"]).exits(0);
    assert_eq!(stale(), json!([]));
    host.wait_boots("app", 3);
    wait_answers(&host, "app", PROVIDER);
    set_user(73_000);
    host.run(&["restart", "app", "netvm"]).exits(0);
    assert_eq!(stale(), json!([]));
    host.wait_boots("app", 4);
    wait_answers(&host, "app", PROVIDER);
}

#[test]
fn a_provider_without_a_free_port_says_so_once_and_takes_the_next_that_is_free() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "one", &["netvm"]);
    client(&host, "two", &["netvm"]);
    host.configure("[vm.netvm]\nlink-ports = 1\n");
    host.sync();
    host.start("one");
    let (one, two) = (link(&host, "one", "netvm"), link(&host, "two", "netvm"));
    wait_plugged(&host, "netvm", &[&one]);
    wait_answers(&host, "one", PROVIDER);
    // It runs, without this network.
    host.start("two");
    let complaint = format!("link {two} cannot be plugged in: all 1 ports for clients are in use or lost");
    wait_for("the complaint", || (said(&host, "netvm", &complaint) > 0).then_some(()));
    assert_eq!(said(&host, "netvm", "choose more (link-ports), and restart this VM"), 1);
    std::thread::sleep(SOON);
    assert_eq!(said(&host, "netvm", &complaint), 1);
    assert!(!answers(&host, "two", PROVIDER));
    assert!(answers(&host, "one", PROVIDER));
    assert_eq!(Qmp::of(&host, "netvm").links(), [format!("link-{one}-0")]);

    host.run(&["stop", "one"]).exits(0);
    wait_answers(&host, "two", PROVIDER);
    assert_eq!(Qmp::of(&host, "netvm").links(), [format!("link-{two}-0")]);
    assert_eq!(said(&host, "netvm", &format!("link {two} is plugged in")), 1);
    // The same from the other side; what was said once may be said again.
    host.run(&["start", "one"]).exits(0);
    let complaint = format!("link {one} cannot be plugged in");
    wait_for("the complaint", || (said(&host, "netvm", &complaint) == 1).then_some(()));
}

#[test]
fn the_hosts_firewall_and_network_manager_have_no_part_in_it() {
    needs!(is_possible());
    let host = Host::new();
    // Docker and others have frames of all bridges pass the firewall, and drop
    // what it does not know.
    let nf_call = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if host.machine.run(&["test", "-e", nf_call]).status == 0 {
        host.machine.write(nf_call, "1\n");
    } else {
        skipped("a firewall that sees frames of bridges", "the kernel has no br_netfilter");
    }
    let rules = "table inet fw { chain forward { type filter hook forward priority 0; policy drop; }; }\n\
                 table bridge fw { chain forward { type filter hook forward priority 0; policy drop; }; }\n";
    host.machine.write("/etc/fw.nft", rules);
    let ran = host.machine.run(&["nft", "--file", "/etc/fw.nft"]);
    if ran.status != 0 {
        skipped("a firewall for frames of bridges", &ran.stderr);
        host.machine.write("/etc/fw.nft", rules.lines().next().unwrap());
        host.ok(&["nft", "--file", "/etc/fw.nft"]);
    }
    // A systemd-networkd that takes every interface that no other file matches.
    host.machine.write(
        "/etc/systemd/network/50-all.network",
        "[Match]\nName=*\n[Network]\nDHCP=yes\nLinkLocalAddressing=yes\n",
    );
    let manager = host.machine.path("/lib/systemd/systemd-networkd").exists();
    if manager {
        host.ok(&["systemctl", "start", "systemd-networkd.service"]);
        host.ok(&["ip", "link", "add", "name", "other", "type", "bridge"]);
    } else {
        skipped("systemd-networkd beside links", "it is not installed");
    }
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("app");
    let id = link(&host, "app", "netvm");
    wait_plugged(&host, "netvm", &[&id]);
    wait_answers(&host, "app", PROVIDER);
    if manager {
        let shown = || host.ok(&["networkctl", "list", "--no-legend", "--no-pager"]);
        // It does take what it can get, and does not see the links.
        let takes = |line: &str| line.contains(" other ") && line.contains(" configur");
        wait_for("an interface of the manager's", || shown().lines().any(takes).then_some(()));
        assert!(!shown().contains(&id), "{}", shown());
    }
    // All that a guest hears, the other one has said.
    let count = |vm: &str, what: &str| -> u64 {
        host.in_guest(vm, &format!("cat /sys/class/net/eth0/statistics/{what}_packets")).parse().unwrap()
    };
    let pairs = [("netvm", "app"), ("app", "netvm")];
    let before = pairs.map(|(says, hears)| (count(says, "tx"), count(hears, "rx")));
    std::thread::sleep(SOON);
    for ((says, hears), (said, heard)) in pairs.iter().zip(before) {
        let heard = count(hears, "rx") - heard;
        let said = count(says, "tx") - said;
        assert!(heard <= said, "{hears} has heard {heard} frames, and {says} has sent {said}");
    }
}

#[test]
fn a_link_keeps_its_id_and_an_administrator_can_choose_it() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    let two = client(&host, "two", &["netvm"]);
    host.sync();
    let before = link(&host, "two", "netvm");
    // Others come, before and after it in every order.
    for name in ["a-first", "one", "zz-last"] {
        client(&host, name, &["netvm"]);
    }
    host.vm("another-netvm");
    host.sync();
    let all = leases(&host);
    let id = |name: &str| link(&host, name, "netvm");
    assert_eq!(id("two"), before);
    let different: std::collections::BTreeSet<_> = ["a-first", "one", "two", "zz-last"].map(id).into();
    assert_eq!(different.len(), 4);

    // One goes, and comes again when others have come.
    let away = host.machine.path("/srv/away");
    fs::rename(&two, &away).unwrap();
    client(&host, "three", &["netvm"]);
    host.sync();
    fs::rename(&away, &two).unwrap();
    host.sync();
    for name in ["a-first", "one", "two", "zz-last"] {
        assert_eq!(
            leases(&host)["links"][format!("user/{name}")],
            all["links"][format!("user/{name}")],
            "{name}"
        );
    }
    // A further provider changes nothing about the first.
    fs::write(two.join("providers/net/another-netvm"), "").unwrap();
    host.sync();
    assert_eq!(id("two"), before);
    let second = link(&host, "two", "another-netvm");
    assert_eq!(host.row("two")["addresses"], json!([address(&second), address(&before)]));

    // The administrator moves one, to a free id ...
    host.configure("[vm.two.links]\nnetvm = '00ff'\n");
    host.sync();
    assert_eq!(id("two"), "00ff");
    assert_eq!(host.row("two")["addresses"], json!([address(&second), "100.64.0.255"]));
    // ... it stays there without that setting, and its old place is free for others ...
    host.configure("");
    host.sync();
    assert_eq!(id("two"), "00ff");
    host.configure(&format!("[vm.three.links]\nnetvm = '{before}'\n"));
    host.sync();
    assert_eq!(id("three"), before);
    // ... but none is moved to an id that another link has, nor two to one id; one that
    // cannot be moved keeps its id, which is not what it would get now.
    host.configure("[vm.one.links]\nnetvm = '0aaa'\n");
    host.sync();
    let leased = leases(&host);
    host.configure("[vm.one.links]\nnetvm = '00ff'\n");
    let ran = host.run(&["sync"]).exits(1);
    ran.complains(&[
        "error: /srv/P/svc/data/one/providers/net/netvm: cannot have the link id 00ff, which the link from user/two to netvm has",
        "  help: declare another id",
    ]);
    assert_eq!((host.state("one").as_str(), host.state("two").as_str()), ("broken", "stopped"));
    host.configure("[vm.one.links]\nnetvm = '0123'\n[vm.two.links]\nnetvm = '0123'\n");
    let ran: Ran = host.run(&["sync"]).exits(2);
    ran.complains(&["[vm.\"one\"] and [vm.\"two\"] both declare the link id 0123"]);
    for (bad, why) in
        [("0000", "0000 and ffff are not used"), ("FFFF", "not used"), ("12345", "four hexadecimal digits")]
    {
        host.configure(&format!("[vm.one.links]\nnetvm = '{bad}'\n"));
        host.run(&["sync"]).exits(2).complains(&["config.toml:13:", why]);
    }
    host.configure("");
    host.sync();
    assert_eq!(leases(&host), leased);
    // Two change places in one step.
    let (one, two) = (id("one"), id("two"));
    host.configure(&format!("[vm.one.links]\nnetvm = '{two}'\n[vm.two.links]\nnetvm = '{one}'\n"));
    host.sync();
    assert_eq!((id("one"), id("two")), (two, one));
}
