// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Links between VMs when something goes wrong, or somebody means harm.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::fixture::program::Ran;
use crate::machine::{is_skipped, wait_for};
use crate::networks::{
    PROVIDER, Qmp, RECORDS, address, answers, client, host_heard, leases, link, mac, said, supervisor,
    traces, traces_of, wait_answers, wait_no_traces, wait_plugged,
};
use crate::place::{Host, INSTALLED, part};

/// What the processes of one VM have in their command lines.
fn supervisor_of(vm: &str) -> String {
    format!("microvm-spectrum vm run --package [^ ]*/{vm}/")
}
fn vmm_of(vm: &str) -> String {
    format!("qemu-system-[^ ]* -name guest={vm},")
}

/// Kills processes like this, all in one step; there must be one of each.
#[track_caller]
fn kill(host: &Host, patterns: &[String]) {
    let found: Vec<_> = patterns.iter().flat_map(|pattern| host.processes(pattern)).collect();
    assert_eq!(found.len(), patterns.len(), "{patterns:?}: {found:?}");
    host.machine
        .run(&[&["kill", "-KILL"], found.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
}

#[test]
fn a_provider_that_comes_back_finds_its_clients() {
    if is_skipped("a_provider_that_comes_back_finds_its_clients") {
        return;
    }
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let id = link(&host, "app", "netvm");
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    let app = supervisor(&host, "app");
    let (mut provider, mut boots) = (supervisor(&host, "netvm"), 1);
    let again = |what: &str, boots: usize, provider: &str| {
        host.wait_boots("netvm", boots);
        let time = wait_answers(&host, "app", PROVIDER);
        eprintln!(
            "{what}: the client's ping is answered {:.1} s after the provider's guest is up",
            time.as_secs_f64()
        );
        assert_eq!(supervisor(&host, "app"), app, "{what}: the client is another");
        assert_eq!(host.boots("app"), 1, "{what}");
        assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]), "{what}");
        let now = supervisor(&host, "netvm");
        assert_ne!(now, provider, "{what}: the provider is the same");
        now
    };
    for (what, pattern) in
        [("supervisor killed", supervisor_of("netvm")), ("monitor killed", vmm_of("netvm"))]
    {
        kill(&host, &[pattern]);
        boots += 1;
        provider = again(what, boots, &provider);
    }
    host.ok(&["systemctl", "restart", "microvm@netvm.service"]);
    boots += 1;
    provider = again("restarted", boots, &provider);
    // Stopped for a while: the client runs on, in vain.
    host.run(&["stop", "netvm"]).exits(0);
    assert_eq!(host.state("app"), "running");
    assert!(!answers(&host, "app", PROVIDER));
    host.run(&["start", "netvm"]).exits(0);
    boots += 1;
    again("stopped and started", boots, &provider);

    // A guest that reboots by itself keeps its interface.
    host.in_guest("netvm", "(sleep 1; reboot -f) &");
    host.wait_boots("netvm", boots + 1);
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(supervisor(&host, "app"), app);

    // A client that goes while its provider is away leaves nothing, and one that
    // comes then is there for it.
    host.run(&["stop", "netvm", "app"]).exits(0);
    wait_no_traces(&host);
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(Qmp::of(&host, "netvm").links(), [format!("link-{id}-0")]);
}

#[test]
fn a_client_restarted_again_and_again_leaves_nothing_behind() {
    if is_skipped("a_client_restarted_again_and_again_leaves_nothing_behind") {
        return;
    }
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let (id, leased) = (link(&host, "app", "netvm"), leases(&host));
    host.start("app");
    wait_plugged(&host, "netvm", &[&id]);
    let netvm = supervisor(&host, "netvm");
    for _ in 0..10 {
        host.ok(&["systemctl", "restart", "microvm@app.service"]);
    }
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]));
    assert_eq!(supervisor(&host, "netvm"), netvm);
    assert_eq!(leases(&host), leased);
    // Each time it was plugged in and out, into the same port.
    let journal = host.machine.journal("microvm@netvm.service");
    for bad in [" lost", "cannot be plugged", "cannot be unplugged"] {
        assert!(!journal.contains(bad), "{bad}: {journal}");
    }
    let plugs = journal.matches(&format!("link {id} is plugged in")).count();
    assert_eq!((plugs, journal.matches(&format!("link {id} is unplugged")).count()), (11, 10));
    assert_eq!(Qmp::of(&host, "netvm").links(), [format!("link-{id}-0")]);
    assert_eq!(
        host.in_guest("netvm", "cat /sys/class/net/*/address"),
        format!("{}\n00:00:00:00:00:00", mac(&id, true))
    );
    host.run(&["stop", "app"]).exits(0);
    wait_no_traces(&host);
    wait_for("the end of its helpers", || {
        let units = host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "microvm*@app*"]);
        units.is_empty().then_some(())
    });
}

#[test]
fn client_and_provider_killed_at_once_come_back_with_their_link() {
    if is_skipped("client_and_provider_killed_at_once_come_back_with_their_link") {
        return;
    }
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let (id, leased) = (link(&host, "app", "netvm"), leases(&host));
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    for round in 1..=2 {
        let all = ["app", "netvm"].iter().flat_map(|vm| [supervisor_of(vm), vmm_of(vm)]);
        kill(&host, &all.collect::<Vec<_>>());
        for vm in ["netvm", "app"] {
            host.wait_boots(vm, round + 1);
        }
        wait_answers(&host, "app", PROVIDER);
        assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]));
        assert_eq!(leases(&host), leased);
        assert_eq!(Qmp::of(&host, "netvm").links().len(), 1);
    }
    // The client alone: its interface is plugged in anew.
    kill(&host, &[supervisor_of("app")]);
    host.wait_boots("app", 4);
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(host.boots("netvm"), 3);
    host.run(&["stop", "app", "netvm"]).exits(0);
    wait_no_traces(&host);
    assert!(host.processes("qemu-system").is_empty());
}

#[test]
fn a_guest_that_does_not_let_go_loses_a_port_and_nobodys_time() {
    if is_skipped("a_guest_that_does_not_let_go_loses_a_port_and_nobodys_time") {
        return;
    }
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let id = link(&host, "app", "netvm");
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    // Its processor stands still; its monitor does not.
    Qmp::of(&host, "netvm").execute("stop", &json!({}));
    // The client's own end is not what is measured.
    host.last_words("app", "poweroff -f");
    wait_for("the client's end", || {
        (host.machine.property("microvm@app.service", "MainPID") == "0").then_some(())
    });
    let begin = Instant::now();
    host.run(&["stop", "app"]).exits(0);
    wait_for("the end of the link", || traces(&host).is_empty().then_some(()));
    let time = begin.elapsed();
    eprintln!(
        "a client's stop takes {:.1} s longer when the provider does not let go (goal: 2)",
        time.as_secs_f64()
    );
    assert!(time < Duration::from_secs(10), "{time:?}");
    let lost = format!(
        "link {id}: the guest does not let go of its interface; its port is lost until this VM restarts"
    );
    wait_for("what it costs", || (said(&host, "netvm", &lost) == 1).then_some(()));
    assert_eq!(host.state("netvm"), "running");

    // The next time it is another port, whatever has become of the first.
    host.run(&["start", "app"]).exits(0);
    wait_for("the next interface", || {
        Qmp::of(&host, "netvm").links().contains(&format!("link-{id}-1")).then_some(())
    });
    Qmp::of(&host, "netvm").execute("cont", &json!({}));
    host.wait_boots("app", 2);
    wait_answers(&host, "app", PROVIDER);
    // It does let go now, late.
    wait_for("the first interface's end", || {
        (Qmp::of(&host, "netvm").links() == [format!("link-{id}-1")]).then_some(())
    });
    assert_eq!(said(&host, "netvm", "does not let go"), 1);
    assert_eq!(traces(&host), traces_of(&[(&id, "netvm")]));
}

/// A client that is started up to its taps, by hand and without guests.
struct ByHand {
    host: Host,
    id: String,
    client: u32,
    provider: u32,
}

impl ByHand {
    fn new() -> Self {
        let host = Host::new();
        host.vm("netvm");
        client(&host, "app", &["netvm"]);
        host.sync();
        let id = link(&host, "app", "netvm");
        let uid = |name: &str| host.row(name)["uid"].as_u64().unwrap().try_into().unwrap();
        let (client, provider) = (uid("app"), uid("netvm"));
        host.ok(&["ip", "link", "set", "dev", "lo", "up"]);
        host.run(&["host", "set-booted", "app"]).exits(0);
        Self { host, id, client, provider }
    }

    /// What the client's unit does.
    fn taps(&self, verb: &str) -> Ran {
        let user = format!("MICROVM_SPECTRUM_USER={}", self.client);
        self.host.machine.run(&["env", &user, INSTALLED, "host", verb, "app"])
    }

    fn taps_ok(&self, verb: &str) {
        self.taps(verb).exits(0).says_nothing();
    }

    fn interface(&self, kind: &str) -> String {
        format!("{kind}-{}", self.id)
    }

    /// All that makes up a link on the host, but what it counts and is numbered by.
    fn whole(&self) -> String {
        let mut text = traces(&self.host).join("\n");
        for (kind, files) in [
            ("vmb", "bridge/stp_state bridge/multicast_snooping bridge/nf_call_iptables"),
            ("vmc", "owner group tun_flags brport/state"),
            ("vmr", "owner group tun_flags brport/state"),
        ] {
            let name = self.interface(kind);
            let script = format!(
                "cd /sys/class/net/{name}; grep . flags addr_assign_type {files}; readlink master; \
                 cat /proc/sys/net/ipv6/conf/{name}/disable_ipv6; ip -oneline address show dev {name}"
            );
            text += &format!("\n{name}:\n{}", self.host.ok(&["sh", "-c", &script]));
        }
        text + "\n" + &self.host.ok(&["nft", "list", "table", "netdev", &format!("vm_{}", self.id)])
    }

    /// Like `whole`, where not everything may be there.
    fn whole_or_parts(&self) -> String {
        let there = traces(&self.host);
        if there == traces_of(&[(&self.id, "netvm")]) { self.whole() } else { there.join("\n") }
    }
}

#[test]
fn links_are_made_and_removed_from_whatever_is_there() {
    if is_skipped("links_are_made_and_removed_from_whatever_is_there") {
        return;
    }
    let hand = ByHand::new();
    let host = &hand.host;
    let [bridge, ours, theirs] = ["vmb", "vmc", "vmr"].map(|kind| hand.interface(kind));
    let (ours, theirs, bridge) = (ours.as_str(), theirs.as_str(), bridge.as_str());
    let table = format!("vm_{}", hand.id);
    hand.taps_ok("tap-down");
    hand.taps_ok("tap-up");
    assert_eq!(traces(host), traces_of(&[(&hand.id, "netvm")]));
    let whole = hand.whole();
    for part in [&format!("owner:{}\n", hand.client), &format!("owner:{}\n", hand.provider), "policy drop"] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    hand.taps_ok("tap-up");
    assert_eq!(hand.whole(), whole, "a second time");

    // Somebody or something has removed or changed a part of it.
    let record = format!("{RECORDS}/netvm/{}.json", hand.id);
    let foreign = |tap: &str| {
        format!(
            "ip link delete dev {tap}; ip tuntap add dev {tap} mode tap vnet_hdr user 70005; ip link set dev {tap} up"
        )
    };
    let damages = [
        format!("ip link delete dev {ours}"),
        format!("ip link delete dev {theirs}"),
        format!("ip link delete dev {bridge}"),
        format!("ip link delete dev {ours}; ip link delete dev {theirs}; ip link delete dev {bridge}"),
        format!("nft delete table netdev {table}"),
        "nft flush ruleset".to_owned(),
        format!("nft flush chain netdev {table} client"),
        format!("nft add rule netdev {table} client accept"),
        format!("rm {record}"),
        format!("rm -r {RECORDS}"),
        format!("ip link set dev {theirs} nomaster"),
        format!("ip link set dev {ours} down"),
        foreign(ours),
        foreign(theirs),
        format!("sysctl -qw net.ipv6.conf.{ours}.disable_ipv6=0"),
    ];
    for damage in &damages {
        host.machine.run(&["sh", "-ec", damage]).exits(0);
        if !damage.contains(RECORDS) {
            assert_ne!(hand.whole_or_parts(), whole, "{damage} changes nothing");
        }
        hand.taps_ok("tap-up");
        assert_eq!(hand.whole(), whole, "after {damage}");
    }
    // And all of it goes, whatever is left of it, as often as anybody likes.
    for damage in &damages {
        host.machine.run(&["sh", "-ec", damage]).exits(0);
        hand.taps_ok("tap-down");
        assert_eq!(traces(host), [""; 0], "after {damage}");
        hand.taps_ok("tap-down");
        hand.taps_ok("tap-up");
        assert_eq!(hand.whole(), whole, "after {damage}");
    }
    hand.taps_ok("tap-down");

    // What is somebody else's is neither used nor removed.
    for (name, add) in [(ours, "type bridge"), (bridge, "type dummy"), (theirs, "type bridge")] {
        if host
            .machine
            .run(
                &[&["ip", "link", "add", "name", name], add.split(' ').collect::<Vec<_>>().as_slice()]
                    .concat(),
            )
            .status
            != 0
        {
            // No such kind of interface here.
            host.ok(&["ip", "tuntap", "add", "dev", name, "mode", "tap"]);
        }
        hand.taps("tap-up").exits(3).complains(&[&format!("{name} exists and is not what a link needs")]);
        assert_eq!(traces(host), [name], "nothing else is left");
        hand.taps_ok("tap-down");
        assert_eq!(traces(host), [name]);
        host.ok(&["ip", "link", "delete", "dev", name]);
    }
}

/// A tap as a monitor has it that was taken over: every frame, in and out. It is
/// QEMU without a machine, whose user opens the tap.
struct Tap {
    child: Child,
    stream: UnixStream,
}

impl Tap {
    fn arguments(tap: &str, socket: &str) -> Vec<String> {
        let tap = format!("tap,id=tap,ifname={tap},script=no,downscript=no,vnet_hdr=off");
        let stream = format!("stream,id=stream,server=on,addr.type=unix,addr.path={socket}");
        let mut line = ["-machine", "none", "-nodefaults", "-display", "none"].map(str::to_owned).to_vec();
        for netdev in [&tap, &stream, "hubport,id=a,hubid=0,netdev=tap", "hubport,id=b,hubid=0,netdev=stream"]
        {
            line.extend(["-netdev".to_owned(), netdev.to_owned()]);
        }
        line
    }

    fn open(host: &Host, user: u32, tap: &str) -> Self {
        let socket = format!("/tmp/{tap}.sock");
        let _ = std::fs::remove_file(host.machine.path(&socket));
        let mut command = host.machine.command_as(user, user, part("QEMU"), Self::arguments(tap, &socket));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let stream = wait_for(&format!("{tap} to be open"), || {
            assert_eq!(child.try_wait().unwrap(), None, "{tap} cannot be opened");
            UnixStream::connect(host.machine.path(&socket)).ok()
        });
        Self { child, stream }
    }

    /// Tries to open it, in vain.
    fn refused(host: &Host, user: u32, tap: &str) -> String {
        let arguments = Self::arguments(tap, "/tmp/refused.sock");
        let qemu = part("QEMU");
        let line: Vec<_> =
            [qemu.to_str().unwrap()].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let ran = host.machine.try_as(user, user, &line);
        assert_ne!(ran.status, 0, "{user} has opened {tap}");
        ran.stderr
    }

    fn send(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap();
        self.stream.write_all(&[&length.to_be_bytes(), frame].concat()).unwrap();
    }

    /// The next frame that comes out, or none for so long.
    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            result => result.unwrap(),
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        Some(frame)
    }

    /// All frames that come out before this one.
    #[track_caller]
    fn receive_until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let mut before = Vec::new();
        loop {
            let frame = self.receive(Duration::from_secs(60)).expect("the last frame never came");
            // The kernel fills up short ones.
            if frame.starts_with(last) {
                return before;
            }
            before.push(frame);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Mac = [u8; 6];
type Ipv4 = [u8; 4];
const EVERYBODY: Mac = [0xff; 6];
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;

fn frame(to: Mac, from: Mac, kind: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = [to.as_slice(), &from, &kind.to_be_bytes(), content].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

fn arp(operation: u8, mac: Mac, sender: Ipv4, target: Ipv4) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation], mac.as_slice(), &sender, &[0; 6], &target].concat()
}

/// A ping; its number tells it from others.
fn ping(from: Ipv4, to: Ipv4, number: u8) -> Vec<u8> {
    let mut icmp = [8, 0, 0, 0, 0, 1, 0, number].to_vec();
    let sum = checksum(&icmp).to_be_bytes();
    icmp[2..4].copy_from_slice(&sum);
    let mut header = [&[0x45, 0, 0, 28, 0, number, 0, 0, 64, 1, 0, 0], from.as_slice(), &to].concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header, icmp].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn mac_of(text: &str) -> Mac {
    let bytes: Vec<_> = text.trim().split(':').map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn ipv4_of(text: &str) -> Ipv4 {
    text.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

#[test]
fn a_monitor_that_was_taken_over_speaks_for_nobody_else_and_with_nobody_else() {
    if is_skipped("a_monitor_that_was_taken_over_speaks_for_nobody_else_and_with_nobody_else") {
        return;
    }
    let hand = ByHand::new();
    let host = &hand.host;
    const HOST: &str = "198.51.100.1";
    host.ok(&["ip", "address", "add", &format!("{HOST}/32"), "dev", "lo"]);
    hand.taps_ok("tap-up");
    let [bridge, ours, theirs] = ["vmb", "vmc", "vmr"].map(|kind| hand.interface(kind));

    // Each tap is one user's; not the next VM's, and not the other side's.
    for (tap, users) in [(&ours, [hand.provider, 70_055]), (&theirs, [hand.client, 70_055])] {
        for user in users {
            let why = Tap::refused(host, user, tap);
            assert!(why.contains("Operation not permitted"), "{user}: {why}");
        }
    }
    for user in [hand.client, hand.provider] {
        let script = format!("touch {RECORDS}/x || touch {RECORDS}/netvm/x || rm -f {RECORDS}/netvm/*.json");
        assert_ne!(
            host.machine.try_as(user, user, &["sh", "-c", &script]).status,
            0,
            "{user} can write records"
        );
    }
    assert_eq!(traces(host), traces_of(&[(&hand.id, "netvm")]));
    let mut app = Tap::open(host, hand.client, &ours);
    let mut netvm = Tap::open(host, hand.provider, &theirs);
    // And one user's at a time.
    assert!(Tap::refused(host, hand.client, &ours).contains("busy"));

    let own = mac_of(&mac(&hand.id, false));
    let gateway = mac_of(&mac(&hand.id, true));
    let (ip, router, other_ip) = (ipv4_of(&address(&hand.id)), ipv4_of(PROVIDER), [100, 64, 9, 9]);
    let other: Mac = [0x0a, 0xb3, 0xec, 0, 9, 9];
    let good = |number| frame(gateway, own, IPV4, &ping(ip, router, number));
    let tagged = |tag: u16, vlan: u16| {
        frame(
            gateway,
            own,
            tag,
            &[&vlan.to_be_bytes(), IPV4.to_be_bytes().as_slice(), &ping(ip, router, 1)].concat(),
        )
    };
    let allowed = [
        ("a ping", good(1)),
        ("a request", frame(EVERYBODY, own, ARP, &arp(1, own, ip, router))),
        ("an answer", frame(gateway, own, ARP, &arp(2, own, ip, router))),
        ("a probe", frame(EVERYBODY, own, ARP, &arp(1, own, [0; 4], ip))),
        ("a broadcast", frame(EVERYBODY, own, IPV4, &ping(ip, [255; 4], 2))),
    ];
    for (what, frame) in &allowed {
        app.send(frame);
        assert_eq!(netvm.receive_until(frame), [[0u8; 0]; 0], "before {what}");
    }
    let forged = [
        ("another's MAC address", frame(gateway, other, IPV4, &ping(ip, router, 3))),
        ("the provider's MAC address", frame(EVERYBODY, gateway, IPV4, &ping(ip, router, 3))),
        (
            "a group's MAC address",
            frame(gateway, [own[0] | 1, own[1], own[2], own[3], own[4], own[5]], IPV4, &ping(ip, router, 3)),
        ),
        ("another's address", frame(gateway, own, IPV4, &ping(other_ip, router, 3))),
        ("the provider's address", frame(gateway, own, IPV4, &ping(router, ip, 3))),
        ("the host's address", frame(gateway, own, IPV4, &ping(ipv4_of(HOST), router, 3))),
        ("no address", frame(EVERYBODY, own, IPV4, &ping([0; 4], [255; 4], 3))),
        ("a request for another", frame(EVERYBODY, own, ARP, &arp(1, own, other_ip, router))),
        ("an answer for the provider", frame(EVERYBODY, own, ARP, &arp(2, own, router, ip))),
        ("an announcement of another", frame(EVERYBODY, own, ARP, &arp(1, own, other_ip, other_ip))),
        ("an answer with another's MAC address", frame(gateway, own, ARP, &arp(2, other, ip, router))),
        ("an answer of another", frame(gateway, other, ARP, &arp(2, other, ip, router))),
        (
            "ARP of another's, in another shape",
            frame(gateway, own, ARP, &{
                let mut shape = arp(2, own, other_ip, router);
                shape[1] = 6;
                shape
            }),
        ),
        ("a VLAN", tagged(0x8100, 7)),
        ("a priority", tagged(0x8100, 0)),
        ("a provider's VLAN", tagged(0x88a8, 7)),
        (
            "a VLAN in a VLAN",
            frame(
                gateway,
                own,
                0x88a8,
                &[&[0, 1, 0x81, 0, 0, 2], IPV4.to_be_bytes().as_slice(), &ping(ip, router, 3)].concat(),
            ),
        ),
        ("IEEE 802.3", frame(EVERYBODY, own, 40, &[0xaa; 40])),
        ("a spanning tree", frame([1, 0x80, 0xc2, 0, 0, 0], own, 38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0])),
        ("a pause", frame([1, 0x80, 0xc2, 0, 0, 1], own, 0x8808, &[0, 1, 0xff, 0xff])),
        ("LLDP", frame([1, 0x80, 0xc2, 0, 0, 0xe], own, 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6])),
        ("PPPoE", frame(EVERYBODY, own, 0x8863, &[0x11, 9, 0, 0, 0, 0])),
        ("MPLS", frame(gateway, own, 0x8847, &[0, 0, 0x11, 64, 0x45, 0])),
        ("RARP", frame(EVERYBODY, own, 0x8035, &arp(3, own, [0; 4], [0; 4]))),
        ("what nobody knows", frame(EVERYBODY, own, 0x88b5, &[1; 8])),
    ];
    // One after the other, each with a good one after it, which it must not stop.
    for (number, (what, frame)) in (10..).zip(&forged) {
        app.send(frame);
        app.send(&good(number));
        assert_eq!(netvm.receive_until(&good(number)), [[0u8; 0]; 0], "{what} has passed");
    }
    // The provider is a router: it may pass on anybody's packets, as itself.
    for (what, frame) in [
        ("somebody's packet", frame(own, gateway, IPV4, &ping([192, 0, 2, 7], ip, 1))),
        ("a request", frame(EVERYBODY, gateway, ARP, &arp(1, gateway, router, ip))),
    ] {
        netvm.send(&frame);
        assert_eq!(app.receive_until(&frame), [[0u8; 0]; 0], "before {what}");
    }
    let last = frame(own, gateway, IPV4, &ping(router, ip, 9));
    for (what, frame) in [
        ("the client's MAC address", frame(EVERYBODY, own, IPV4, &ping(router, ip, 3))),
        ("another's MAC address", frame(own, other, IPV4, &ping(router, ip, 3))),
        (
            "a VLAN",
            frame(
                own,
                gateway,
                0x8100,
                &[&[0, 7], IPV4.to_be_bytes().as_slice(), &ping(router, ip, 3)].concat(),
            ),
        ),
        ("a spanning tree", frame([1, 0x80, 0xc2, 0, 0, 0], gateway, 38, &[0x42, 0x42, 3, 0, 0, 0, 0, 0])),
    ] {
        netvm.send(&frame);
        netvm.send(&last);
        assert_eq!(app.receive_until(&last), [[0u8; 0]; 0], "{what} has passed");
    }

    // The host hears nothing of it, whatever address is on the frame.
    let interface_mac = |name: &str| mac_of(&host.machine.read(&format!("/sys/class/net/{name}/address")));
    let to_host = |to: Mac, from: Mac, sender: Ipv4| frame(to, from, IPV4, &ping(sender, ipv4_of(HOST), 5));
    let to_all = |app: &mut Tap, netvm: &mut Tap| {
        for name in [&bridge, &ours, &theirs] {
            app.send(&to_host(interface_mac(name), own, ip));
            app.send(&frame(EVERYBODY, own, ARP, &arp(1, own, ip, ipv4_of(HOST))));
            netvm.send(&to_host(interface_mac(name), gateway, router));
        }
        app.send(&to_host(EVERYBODY, own, ip));
    };
    let before = host_heard(host);
    to_all(&mut app, &mut netvm);
    app.send(&good(100));
    netvm.send(&last);
    let (through, back) = (netvm.receive_until(&good(100)), app.receive_until(&last));
    assert_eq!((through.len(), back.len()), (7, 3), "each went to the other side, and nowhere else");
    assert_eq!(host_heard(host), before);
    // And says nothing: no neighbours, routers, groups or trees are looked for.
    for tap in [&mut app, &mut netvm] {
        assert_eq!(tap.receive(Duration::from_millis(1500)), None, "the host speaks");
    }

    // That it would be heard on another tap.
    host.ok(&["ip", "tuntap", "add", "dev", "control", "mode", "tap", "user", "70055"]);
    host.ok(&["ip", "link", "set", "dev", "control", "up"]);
    let mut control = Tap::open(host, 70_055, "control");
    control.send(&to_host(interface_mac("control"), own, ip));
    wait_for("the host to hear it", || (host_heard(host) == before + 1).then_some(()));
    drop(control);
    host.ok(&["ip", "link", "delete", "dev", "control"]);

    // Somebody loads his firewall anew, which forgets the rules of links: nothing
    // is open then, and it is all there again after the next `tap-up`.
    host.ok(&["nft", "flush", "ruleset"]);
    let before = host_heard(host);
    to_all(&mut app, &mut netvm);
    for (_, frame) in &forged {
        app.send(frame);
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut passed = Vec::new();
    while let Some(frame) = netvm.receive(Duration::from_millis(500)) {
        passed.push(frame);
    }
    assert_eq!(host_heard(host), before, "the host is open");
    assert!(!forged.iter().any(|(_, frame)| passed.contains(frame)), "forged frames pass: {passed:?}");
    hand.taps_ok("tap-up");
    app.send(&good(101));
    netvm.receive_until(&good(101));
}
