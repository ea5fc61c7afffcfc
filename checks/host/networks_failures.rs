// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Links between VMs when something goes wrong, or a guest means harm.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::guest::part;
use crate::support::installed::{Host, INSTALLED};
use crate::support::links::{
    PROVIDER, Qmp, RECORDS, address, answers, client, host_heard, leases, link, mac, said, supervisor,
    traces, traces_of, wait_answers, wait_plugged,
};
use crate::support::program::Ran;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::{PATIENCE, wait_for};

/// What the processes of one VM have in their command lines.
fn supervisor_of(vm: &str) -> String {
    format!("microvm-spectrum vm run --package [^ ]*/{vm}/")
}
fn vmm_of(vm: &str) -> String {
    format!("qemu-system-[^ ]* -name guest={vm},")
}

/// Kills processes like this, all in one step; there must be one of each.
/// A host whose VM `app` reaches its provider `netvm`, and the id of their link.
fn connected() -> (Host, String) {
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    let id = link(&host, "app", "netvm");
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    (host, id)
}

#[track_caller]
fn kill(host: &Host, patterns: &[String]) {
    let found: Vec<_> = patterns.iter().flat_map(|pattern| host.processes(pattern)).collect();
    assert_eq!(found.len(), patterns.len(), "{patterns:?}: {found:?}");
    host.machine
        .run(&[&["kill", "-KILL"], found.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat());
}

#[test]
fn a_provider_that_comes_back_finds_its_clients() {
    needs!(is_possible());
    let (host, id) = connected();
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
    assert_eq!(traces(&host), [""; 0]);
    host.start("app");
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(Qmp::of(&host, "netvm").links(), [format!("link-{id}-0")]);
}

#[test]
fn a_client_restarted_again_and_again_leaves_nothing_behind() {
    needs!(is_possible());
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
    assert_eq!(traces(&host), [""; 0]);
    wait_for("the end of its helpers", || {
        let units = host.ok(&["systemctl", "list-units", "--plain", "--no-legend", "microvm*@app*"]);
        units.is_empty().then_some(())
    });
}

#[test]
fn client_and_provider_killed_at_once_come_back_with_their_link() {
    needs!(is_possible());
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
    // The client alone: its interface is plugged in again.
    kill(&host, &[supervisor_of("app")]);
    host.wait_boots("app", 4);
    wait_answers(&host, "app", PROVIDER);
    assert_eq!(host.boots("netvm"), 3);
    host.run(&["stop", "app", "netvm"]).exits(0);
    assert_eq!(traces(&host), [""; 0]);
    assert!(host.processes("qemu-system").is_empty());
}

#[test]
fn a_guest_that_does_not_let_go_loses_a_port_and_nobodys_time() {
    needs!(is_possible());
    let (host, id) = connected();
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
    assert!(time < Duration::from_secs(25), "{time:?}");
    let lost = format!("link {id}: the guest does not release its interface; its port is lost");
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
    assert_eq!(said(&host, "netvm", "does not release"), 1);
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
        host.ok(&["ip", "address", "add", &format!("{HOST}/32"), "dev", "lo"]);
        host.run(&["host", "set-booted", "app"]).exits(0);
        Self { host, id, client, provider }
    }

    /// What the client's unit does.
    fn taps(&self, verb: &str) -> Ran {
        self.taps_of(verb, "app", self.client)
    }

    fn taps_of(&self, verb: &str, vm: &str, user: u32) -> Ran {
        let user = format!("MICROVM_SPECTRUM_USER={user}");
        self.host.machine.run(&["env", &user, INSTALLED, "host", verb, vm])
    }

    #[track_caller]
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
    needs!(is_possible());
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

    // Another program has removed or changed a part of it.
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

    // What belongs to another program is neither used nor removed.
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

    fn try_send(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(frame.len()).unwrap();
        self.stream.write_all(&[&length.to_be_bytes(), frame].concat())
    }

    fn send(&mut self, frame: &[u8]) {
        self.try_send(frame).unwrap();
    }

    /// The next frame that comes out, or none for so long.
    fn try_receive(&mut self, patience: Duration) -> std::io::Result<Option<Vec<u8>>> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            result => result?,
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(Some(frame))
    }

    fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.try_receive(patience).unwrap_or_else(|e| panic!("{e}, and QEMU: {:?}", self.child.try_wait()))
    }

    /// All frames that come out before this one.
    #[track_caller]
    fn receive_until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let mut before = Vec::new();
        loop {
            let frame = self.receive(PATIENCE).expect("the last frame never came");
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
/// What a bridge says to other bridges (IEEE 802.1D).
const TREE: [u8; 8] = [0x42, 0x42, 3, 0, 0, 0, 0, 0];

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

/// An address of the host's own that no guest may reach.
const HOST: &str = "198.51.100.1";

/// Both taps of a link in the hands of an attacker, and what belongs to whom.
struct Ends {
    app: Tap,
    netvm: Tap,
    own: Mac,
    gateway: Mac,
    ip: Ipv4,
    router: Ipv4,
}

impl Ends {
    fn of(hand: &ByHand) -> Self {
        // On a busy machine, QEMU 7.2 sometimes dies of a frame that comes while it
        // accepts its stream's client.
        let tried =
            (0..10).find_map(|_| Self::try_of(hand).inspect_err(|e| eprintln!("once more: {e}")).ok());
        tried.expect("no QEMU lived")
    }

    fn try_of(hand: &ByHand) -> std::io::Result<Self> {
        let mut ends = Self {
            app: Tap::open(&hand.host, hand.client, &hand.interface("vmc")),
            netvm: Tap::open(&hand.host, hand.provider, &hand.interface("vmr")),
            own: mac_of(&mac(&hand.id, false)),
            gateway: mac_of(&mac(&hand.id, true)),
            ip: ipv4_of(&address(&hand.id)),
            router: ipv4_of(PROVIDER),
        };
        // What comes before a monitor has us as its client is lost.
        let (good, answer) = (ends.good(0), ends.answer(0));
        let soon = Duration::from_millis(50);
        wait_for("a frame of the client's", || {
            ends.app.try_send(&good).and_then(|()| ends.netvm.try_receive(soon)).transpose()
        })?;
        wait_for("a frame of the provider's", || {
            ends.netvm.try_send(&answer).and_then(|()| ends.app.try_receive(soon)).transpose()
        })?;
        let (good, answer) = (ends.good(255), ends.answer(255));
        ends.app.send(&good);
        ends.netvm.receive_until(&good);
        ends.netvm.send(&answer);
        ends.app.receive_until(&answer);
        Ok(ends)
    }

    /// What the client may send, whatever it says.
    fn good(&self, number: u8) -> Vec<u8> {
        frame(self.gateway, self.own, IPV4, &ping(self.ip, self.router, number))
    }

    /// What the provider may send.
    fn answer(&self, number: u8) -> Vec<u8> {
        frame(self.own, self.gateway, IPV4, &ping(self.router, self.ip, number))
    }

    /// A packet in tags for VLANs.
    fn tagged(&self, to: Mac, from: Mac, tags: &[u16]) -> Vec<u8> {
        let after: Vec<u8> = tags[1..].iter().chain(&[IPV4]).flat_map(|word| word.to_be_bytes()).collect();
        frame(to, from, tags[0], &[after, ping(self.ip, self.router, 3)].concat())
    }

    /// What no client may send.
    fn forged(&self) -> Vec<(&'static str, Vec<u8>)> {
        let Self { own, gateway, ip, router, .. } = *self;
        let (other, other_ip): (Mac, Ipv4) = ([0x0a, 0xb3, 0xec, 0, 9, 9], [100, 64, 9, 9]);
        let mut group = own;
        group[0] |= 1;
        let packet = |from: Mac, sender: Ipv4, to: Ipv4| frame(gateway, from, IPV4, &ping(sender, to, 3));
        let says = |content: Vec<u8>| frame(EVERYBODY, own, ARP, &content);
        let mut odd = arp(2, own, other_ip, router);
        odd[1] = 6;
        vec![
            ("another's MAC address", packet(other, ip, router)),
            ("the provider's MAC address", packet(gateway, ip, router)),
            ("a group's MAC address", packet(group, ip, router)),
            ("another's address", packet(own, other_ip, router)),
            ("the provider's address", packet(own, router, ip)),
            ("the host's address", packet(own, ipv4_of(HOST), router)),
            ("no address", packet(own, [0; 4], [255; 4])),
            ("a request for another", says(arp(1, own, other_ip, router))),
            ("an answer for the provider", says(arp(2, own, router, ip))),
            ("an announcement of another", says(arp(1, own, other_ip, other_ip))),
            ("an answer with another's MAC address", says(arp(2, other, ip, router))),
            ("an answer of another", frame(gateway, other, ARP, &arp(2, other, ip, router))),
            ("an answer for another, of IEEE 802's kind", says(odd)),
            ("a VLAN", self.tagged(gateway, own, &[0x8100, 7])),
            ("a priority", self.tagged(gateway, own, &[0x8100, 0xe000])),
            ("a carrier's VLAN", self.tagged(gateway, own, &[0x88a8, 7])),
            ("a VLAN in a VLAN", self.tagged(gateway, own, &[0x88a8, 1, 0x8100, 2])),
            ("IEEE 802.3", frame(EVERYBODY, own, 40, &[0xaa; 40])),
            ("a spanning tree", frame([1, 0x80, 0xc2, 0, 0, 0], own, 38, &TREE)),
            ("a pause", frame([1, 0x80, 0xc2, 0, 0, 1], own, 0x8808, &[0, 1, 0xff, 0xff])),
            ("LLDP", frame([1, 0x80, 0xc2, 0, 0, 0xe], own, 0x88cc, &[2, 7, 4, 1, 2, 3, 4, 5, 6])),
            ("PPPoE", frame(EVERYBODY, own, 0x8863, &[0x11, 9, 0, 0, 0, 0])),
            ("MPLS", frame(gateway, own, 0x8847, &[0, 0, 0x11, 64, 0x45, 0])),
            ("RARP", frame(EVERYBODY, own, 0x8035, &arp(3, own, [0; 4], [0; 4]))),
            ("an unknown protocol", frame(EVERYBODY, own, 0x88b5, &[1; 8])),
        ]
    }

    /// Tries to talk to the host, in every way that there is.
    fn call_the_host(&mut self, hand: &ByHand) {
        for kind in ["vmb", "vmc", "vmr"] {
            let to = interface_mac(&hand.host, &hand.interface(kind));
            self.app.send(&frame(to, self.own, IPV4, &ping(self.ip, ipv4_of(HOST), 5)));
            self.netvm.send(&frame(to, self.gateway, IPV4, &ping(self.router, ipv4_of(HOST), 5)));
        }
        self.app.send(&frame(EVERYBODY, self.own, IPV4, &ping(self.ip, ipv4_of(HOST), 5)));
        self.app.send(&frame(EVERYBODY, self.own, ARP, &arp(1, self.own, self.ip, ipv4_of(HOST))));
    }
}

fn interface_mac(host: &Host, name: &str) -> Mac {
    mac_of(&host.machine.read(&format!("/sys/class/net/{name}/address")))
}

#[test]
fn a_monitor_that_was_taken_over_speaks_for_nobody_else_and_with_nobody_else() {
    needs!(is_possible());
    let hand = ByHand::new();
    let host = &hand.host;
    hand.taps_ok("tap-up");

    // Each tap is one user's; not the next VM's, and not the other side's.
    for (kind, users) in
        [("vmc", [hand.provider, hand.client + 1]), ("vmr", [hand.client, hand.provider + 1])]
    {
        for user in users {
            let why = Tap::refused(host, user, &hand.interface(kind));
            assert!(why.contains("Operation not permitted"), "{user}: {why}");
        }
    }
    for user in [hand.client, hand.provider] {
        for change in
            ["touch {}/x", "touch {}/netvm/x", "mkdir {}/x", "rm {}/netvm/*.json", "mv {}/netvm {}/x"]
        {
            let change = change.replace("{}", RECORDS);
            assert_ne!(host.machine.try_as(user, user, &["sh", "-c", &change]).status, 0, "{user}: {change}");
        }
    }
    assert_eq!(traces(host), traces_of(&[(&hand.id, "netvm")]));
    let mut ends = Ends::of(&hand);
    // And one monitor's at a time.
    assert!(Tap::refused(host, hand.client, &hand.interface("vmc")).contains("busy"));

    let (own, ip, gateway, router) = (ends.own, ends.ip, ends.gateway, ends.router);
    for (what, frame) in [
        ("a ping", ends.good(1)),
        ("a request", frame(EVERYBODY, own, ARP, &arp(1, own, ip, router))),
        ("an answer", frame(gateway, own, ARP, &arp(2, own, ip, router))),
        ("a probe", frame(EVERYBODY, own, ARP, &arp(1, own, [0; 4], ip))),
        ("a broadcast", frame(EVERYBODY, own, IPV4, &ping(ip, [255; 4], 2))),
    ] {
        ends.app.send(&frame);
        assert_eq!(ends.netvm.receive_until(&frame), [[0u8; 0]; 0], "before {what}");
    }
    // One after the other, each with a good one after it, which it must not stop.
    for (number, (what, frame)) in (10..).zip(ends.forged()) {
        let good = ends.good(number);
        ends.app.send(&frame);
        ends.app.send(&good);
        assert_eq!(ends.netvm.receive_until(&good), [[0u8; 0]; 0], "{what} has passed");
    }
    // The provider is a router: it may pass on anybody's packets, as itself.
    for (what, frame) in [
        ("another sender's packet", frame(own, gateway, IPV4, &ping([192, 0, 2, 7], ip, 1))),
        ("a request", frame(EVERYBODY, gateway, ARP, &arp(1, gateway, router, ip))),
    ] {
        ends.netvm.send(&frame);
        assert_eq!(ends.app.receive_until(&frame), [[0u8; 0]; 0], "before {what}");
    }
    let answer = ends.answer(9);
    for (what, frame) in [
        ("the client's MAC address", frame(EVERYBODY, own, IPV4, &ping(router, ip, 3))),
        ("another's MAC address", frame(own, [2, 0, 0, 0, 0, 1], IPV4, &ping(router, ip, 3))),
        ("a VLAN", ends.tagged(own, gateway, &[0x8100, 7])),
        ("a spanning tree", frame([1, 0x80, 0xc2, 0, 0, 0], gateway, 38, &TREE)),
    ] {
        ends.netvm.send(&frame);
        ends.netvm.send(&answer);
        assert_eq!(ends.app.receive_until(&answer), [[0u8; 0]; 0], "{what} has passed");
    }

    // The host hears nothing of it, whatever address is on the frame.
    let before = host_heard(host);
    ends.call_the_host(&hand);
    let good = ends.good(100);
    ends.app.send(&good);
    ends.netvm.send(&answer);
    let (there, back) = (ends.netvm.receive_until(&good), ends.app.receive_until(&answer));
    assert_eq!((there.len(), back.len()), (5, 3), "each went to the other side, and nowhere else");
    assert_eq!(host_heard(host), before);
    // And says nothing: no neighbours, routers, groups or trees are looked for.
    for tap in [&mut ends.app, &mut ends.netvm] {
        assert_eq!(tap.receive(Duration::from_millis(1500)), None, "the host speaks");
    }

    // It would hear it on another tap.
    host.ok(&["ip", "tuntap", "add", "dev", "control", "mode", "tap", "user", "70055"]);
    host.ok(&["ip", "link", "set", "dev", "control", "up"]);
    let mut control = Tap::open(host, 70_055, "control");
    let call = frame(interface_mac(host, "control"), own, IPV4, &ping(ip, ipv4_of(HOST), 5));
    wait_for("the host to hear it", || {
        // See `Ends::of`.
        if control.try_send(&call).is_err() {
            control = Tap::open(host, 70_055, "control");
        }
        (host_heard(host) > before).then_some(())
    });
}

#[test]
fn a_firewall_that_is_loaded_anew_opens_nothing() {
    needs!(is_possible());
    let hand = ByHand::new();
    let host = &hand.host;
    hand.taps_ok("tap-up");
    let mut ends = Ends::of(&hand);
    let before = host_heard(host);
    // As the first line of Debian's /etc/nftables.conf does.
    host.ok(&["nft", "flush", "ruleset"]);
    ends.call_the_host(&hand);
    let forged = ends.forged();
    for (_, frame) in &forged {
        ends.app.send(frame);
    }
    // Whatever comes, comes soon.
    while let Some(frame) = ends.netvm.receive(Duration::from_millis(700)) {
        let what = forged.iter().find(|(_, forged)| frame.starts_with(forged)).map(|(what, _)| what);
        assert_eq!(what, None, "has passed");
    }
    assert_eq!(host_heard(host), before, "the host is open");
    hand.taps_ok("tap-up");
    let (good, answer) = (ends.good(101), ends.answer(101));
    ends.app.send(&good);
    ends.netvm.receive_until(&good);
    ends.netvm.send(&answer);
    ends.app.receive_until(&answer);
}

#[test]
fn a_link_that_is_there_is_left_alone() {
    needs!(is_possible());
    let hand = ByHand::new();
    hand.taps_ok("tap-up");
    // What the provider goes by: a new record means a new tap.
    let record = format!("{RECORDS}/netvm/{}.json", hand.id);
    let stamp = || hand.host.ok(&["stat", "--format=%i %y", &record]);
    let mut ends = Ends::of(&hand);
    let (before, whole) = (stamp(), hand.whole());
    hand.taps_ok("tap-up");
    assert_eq!(hand.whole(), whole);
    assert_eq!(stamp(), before, "the provider unplugs the link and plugs it in again, for nothing");
    let good = ends.good(1);
    ends.app.send(&good);
    ends.netvm.receive_until(&good);
    drop(ends);
    hand.host.ok(&["ip", "link", "delete", "dev", &hand.interface("vmr")]);
    hand.taps_ok("tap-up");
    assert_ne!(stamp(), before);
}

#[test]
fn an_id_that_a_running_vm_still_has_is_nobody_elses() {
    needs!(is_possible());
    let hand = ByHand::new();
    let host = &hand.host;
    client(host, "other", &["netvm"]);
    hand.taps_ok("tap-up");
    let ends = Ends::of(&hand);
    // The administrator moves the link, which counts from the next start on,
    // and gives its id to another, who starts before that.
    host.configure(&format!("[vm.app.links]\nnetvm = '0abc'\n[vm.other.links]\nnetvm = '{}'\n", hand.id));
    host.sync();
    assert_eq!(
        (link(host, "app", "netvm").as_str(), link(host, "other", "netvm")),
        ("0abc", hand.id.clone())
    );
    let other = host.row("other")["uid"].as_u64().unwrap().try_into().unwrap();
    host.run(&["host", "set-booted", "other"]).exits(0);
    let whole = hand.whole();
    let ran = hand.taps_of("tap-up", "other", other);
    assert_ne!(ran.status, 0, "what app runs with is other's now");
    ran.complains(&[&hand.id, "app"]);
    // What its unit does then.
    hand.taps_of("tap-down", "other", other).exits(0);
    assert_eq!(hand.whole(), whole);
    drop(ends);
    hand.taps_ok("tap-down");
    assert_eq!(traces(host), [""; 0]);
    hand.taps_of("tap-up", "other", other).exits(0);
    assert_eq!(traces(host), traces_of(&[(&hand.id, "netvm")]));
    // It is `app` that must leave alone now what is not its own any more.
    let whole = hand.whole();
    hand.taps_ok("tap-down");
    assert_eq!(hand.whole(), whole);
}

#[test]
fn a_guest_that_lets_go_late_or_by_itself_gets_its_ports_back() {
    needs!(is_possible());
    let hand = ByHand::new();
    let host = &hand.host;
    host.configure("[vm.netvm]\nlink-ports = 2\n");
    host.sync();
    host.start("netvm");
    let links = || Qmp::of(host, "netvm").links();
    let plugged = |number: usize| {
        wait_for("the link to be plugged in", || (links().len() == number).then_some(()));
    };
    hand.taps_ok("tap-up");
    plugged(1);
    wait_plugged(host, "netvm", &[&hand.id]);
    // As slow as a guest can be: one that is booting is, too.
    Qmp::of(host, "netvm").execute("stop", &json!({}));
    hand.taps_ok("tap-down");
    hand.taps_ok("tap-up");
    plugged(2);
    hand.taps_ok("tap-down");
    Qmp::of(host, "netvm").execute("cont", &json!({}));
    wait_for("the guest to let go", || links().is_empty().then_some(()));
    hand.taps_ok("tap-up");
    plugged(1);
    // One that releases what it was not asked to.
    for _ in 0..3 {
        let eject = "device=$(readlink -f /sys/class/net/eth*/device); bus=$(basename ${device%/*}); \
                     for slot in /sys/bus/pci/slots/*; do \
                     case $bus in $(cat $slot/address).*) echo 0 >$slot/power;; esac; done";
        wait_for("the interface", || {
            host.in_guest("netvm", "ls /sys/class/net").contains("eth").then_some(())
        });
        host.in_guest("netvm", eject);
        wait_for("the guest to let go", || links().is_empty().then_some(()));
        let begin = Instant::now();
        hand.taps_ok("tap-down");
        eprintln!(
            "the end of a link that the guest has ejected takes {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        assert_eq!(traces(host), [""; 0]);
        hand.taps_ok("tap-up");
        plugged(1);
    }
}
