// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs that passt connects to the host's network. Outside is a network namespace of its own, with
//! a web server; the machine routes to it.

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_or_explain;

/// The machine's address on the way to the outside.
const INSIDE: &str = "203.0.113.1";
/// The address of the web server.
pub(super) const OUTSIDE: &str = "203.0.113.2";

/// Answers every query for a name with the address of the web server (RFC 1035).
const NAME_SERVER: &str = r#"use Socket;
my $s;
socket($s, PF_INET, SOCK_DGRAM, 17) && bind($s, sockaddr_in(53, inet_aton("127.0.0.53"))) or die $!;
while (my $from = recv($s, my $query, 512, 0)) {
    substr($query, 2, 6) = "\x81\x80\0\1\0\1";
    $query =~ s/^(.{12}[^\0]*\0.{4}).*/$1/s;
    send($s, $query . "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" . inet_aton("203.0.113.2"), 0, $from);
}"#;

/// The address that a guest takes by DHCP, when it has it after this boot.
fn address_of_guest(host: &Host, boots: usize) -> String {
    wait_or_explain(
        "the guest's address",
        || (host.log("netvm").matches("guest: eth0 uplink 192.").count() >= boots).then_some(()),
        || host.log("netvm"),
    );
    host.in_guest("netvm", "ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4")
}

/// Runs a program in the machine until the test ends.
fn serve(host: &Host, line: &[&str]) {
    let unit = ["systemd-run", "--quiet", "--collect", "--"];
    host.ok(&[unit.as_slice(), line].concat());
}

/// What a web server answers, tried until it does. The static busybox of Debian 12 crashes here.
fn fetched(host: &Host, from: &[&str], address: &str, port: u16) -> String {
    let script =
        format!("exec 3<>/dev/tcp/{address}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3");
    let line = [from, &["timeout", "10", "bash", "-c", &script]].concat();
    wait_or_explain(
        &format!("an answer of {address}:{port}"),
        || {
            let ran = host.machine.run(&line);
            Some(ran.stdout.split_once("\r\n\r\n")?.1.to_owned())
        },
        || host.machine.journal("microvm-uplink@netvm.service"),
    )
}

/// Makes the outside, and a name server on the machine's loopback.
pub(super) fn set_up(host: &Host) {
    for line in [
        "ip netns add outside",
        "ip link add out type veth peer name in netns outside",
        "ip address add 203.0.113.1/24 dev out",
        "ip link set out up",
        "ip -n outside address add 203.0.113.2/24 dev in",
        "ip -n outside link set in up",
        "ip link set lo up",
    ] {
        host.ok(&line.split(' ').collect::<Vec<_>>());
    }
    host.machine.write("/srv/outside/index.html", "hello from outside\n");
    host.machine.write("/srv/loopback/index.html", "hello from the loopback\n");
    let web = format!("{OUTSIDE}:80");
    serve(
        host,
        &["ip", "netns", "exec", "outside", "busybox", "httpd", "-f", "-p", &web, "-h", "/srv/outside"],
    );
    serve(host, &["busybox", "httpd", "-f", "-p", "127.0.0.1:9000", "-h", "/srv/loopback"]);
    host.machine.write("/srv/names.pl", NAME_SERVER);
    serve(host, &["perl", "/srv/names.pl"]);
    host.machine.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    fetched(host, &[], "127.0.0.1", 9000);
}

#[test]
fn a_guest_reaches_the_outside_and_not_the_loopback_and_ports_lead_to_it() {
    needs!(is_possible());
    let host = Host::new();
    set_up(&host);
    host.vm("netvm");
    host.configure(&format!("[vm.netvm]\nuplink = true\nports = ['{INSIDE}:80:8000']\n"));
    host.sync();
    host.start("netvm");
    assert_eq!(address_of_guest(&host, 1), "192.0.0.2/29");
    let get = |address: &str, port: u16| {
        format!("(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 3) | nc -w 10 {address} {port} | tail -n 1")
    };
    wait_or_explain(
        "what the guest fetches from outside",
        || (host.in_guest("netvm", &get(OUTSIDE, 80)) == "hello from outside").then_some(()),
        || host.machine.journal("microvm-uplink@netvm.service"),
    );
    let asked = host.in_guest("netvm", "nslookup web.outside 192.0.0.1");
    assert!(asked.contains(OUTSIDE), "{asked}");
    // The MAC address is the VM's own, and not one of a link.
    let mac = host.in_guest("netvm", "cat /sys/class/net/eth0/address");
    assert!(mac.starts_with("02:"), "{mac}");
    // A guest that sends to the loopback on the wire: Debian 12's passt would pass it on.
    let wire = "ip link set lo down; echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.1 via 192.0.0.1";
    assert_eq!(host.in_guest("netvm", &format!("{wire}; {}", get("127.0.0.1", 9000))), "nc: timed out");
    let refused = host.in_guest("netvm", &get("192.0.0.1", 9000));
    assert!(!refused.contains("hello"), "{refused}");

    // From outside to the guest, at a port that only privileged users may have.
    host.in_guest("netvm", "mkdir /tmp/www; echo hello from the guest >/tmp/www/index.html");
    host.in_guest("netvm", "httpd -p 8000 -h /tmp/www");
    let outside = ["ip", "netns", "exec", "outside"];
    assert_eq!(fetched(&host, &outside, INSIDE, 80), "hello from the guest\n");
    let status = host.run(&["status", "netvm"]).exits(0).stdout;
    let line = format!("  uplink      192.0.0.2 from the host, ports {INSIDE}:80:8000\n");
    assert!(status.contains(&line), "{status}");

    // passt is a user of its own, with no capability that matters and in the host's network.
    let [passt] = host.processes("passt.* --socket").try_into().unwrap();
    let uid: u32 = host.ok(&["stat", "--format=%u", &format!("/proc/{passt}")]).parse().unwrap();
    assert!((61184..=65519).contains(&uid), "{uid} is no dynamic user");
    let namespace = |pid: &str| host.ok(&["readlink", &format!("/proc/{pid}/ns/net")]);
    assert_eq!(namespace(&passt), namespace("1"));
    let [monitor] = host.processes("qemu-system").try_into().unwrap();
    assert_ne!(namespace(&monitor), namespace("1"));
    // Other users of the host do not reach its socket.
    let socket = "/run/microvm-uplink/netvm/netvm.uplink.sock";
    host.ok(&["test", "-S", socket]);
    assert_ne!(host.machine.try_as(4242, 4242, &["test", "-S", socket]).status, 0);

    // Killed, it comes back, with the VM.
    host.ok(&["kill", "-KILL", &passt]);
    host.wait_boots("netvm", 2);
    host.wait_state("netvm", "running");

    // A port of the loopback.
    host.configure("[vm.netvm]\nuplink = true\nports = ['127.0.0.1:8080:8000']\n");
    host.sync();
    host.run(&["restart", "netvm"]).exits(0);
    host.wait_boots("netvm", 3);
    assert_eq!(address_of_guest(&host, 3), "192.0.0.2/29");
    host.in_guest("netvm", "mkdir /tmp/www; echo hello again >/tmp/www/index.html");
    host.in_guest("netvm", "httpd -p 8000 -h /tmp/www");
    assert_eq!(fetched(&host, &[], "127.0.0.1", 8080), "hello again\n");

    // Without an uplink nothing is left.
    host.configure("");
    host.sync();
    host.run(&["restart", "netvm"]).exits(0);
    host.wait_boots("netvm", 4);
    assert!(host.processes("passt.* --socket").is_empty());
    assert!(!host.machine.path("/run/systemd/generator/microvm-uplink@netvm.service.d").exists());
    assert!(!host.machine.path("/run/microvm-uplink/netvm").exists());
    assert_eq!(host.in_guest("netvm", "ls /sys/class/net | grep -c eth"), "0");
}

#[test]
fn a_port_that_is_taken_is_said() {
    needs!(is_possible());
    let host = Host::new();
    set_up(&host);
    host.vm("netvm");
    host.configure("[vm.netvm]\nuplink = true\nports = ['127.0.0.1:9000:80']\n");
    host.sync();
    let ran = host.run(&["start", "netvm"]);
    assert_ne!(ran.status, 0, "{}", host.machine.journal("microvm-uplink@netvm.service"));
    assert!(ran.stderr.contains("microvm-uplink@netvm.service: failed"), "{}", ran.stderr);
    let said = host.machine.journal("microvm-uplink@netvm.service");
    assert!(said.contains("Failed to bind any port"), "{said}");
    assert!(host.processes("passt.* --socket").is_empty() && host.processes("qemu-system").is_empty());
}
