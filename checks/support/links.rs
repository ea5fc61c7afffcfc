// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Links between VMs of an installed host: their ids and addresses, what there is
//! of them on the host, and whether they carry anything.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::installed::Host;
use crate::support::waiting::{PATIENCE, wait_for};

/// The address of every provider, for its clients.
pub const PROVIDER: &str = "169.254.0.1";
/// Where the leases are.
const LEASES: &str = "/var/lib/microvms/.microvm-spectrum/leases.json";
/// The records of who has which link.
pub const RECORDS: &str = "/run/microvm-spectrum/links";
/// Adds a VM directory whose networks these VMs provide.
pub fn client(host: &Host, name: &str, providers: &[&str]) -> PathBuf {
    let directory = host.vm(name);
    fs::create_dir_all(directory.join("providers/net")).unwrap();
    for provider in providers {
        fs::write(directory.join("providers/net").join(provider), "").unwrap();
    }
    directory
}

/// All leases.
pub fn leases(host: &Host) -> Value {
    serde_json::from_str(&host.machine.read(LEASES)).unwrap()
}

/// The id of a link that a client has had at some time.
#[track_caller]
pub fn link(host: &Host, client: &str, provider: &str) -> String {
    let leases = leases(host);
    let id = &leases["links"][format!("user/{client}")][provider];
    id.as_str().unwrap_or_else(|| panic!("no link from {client} to {provider} in {leases}")).to_owned()
}

/// The client's address on a link (`docs/networking.md`).
pub fn address(id: &str) -> String {
    let (high, low) = id.split_at(2);
    let number = |digits| u8::from_str_radix(digits, 16).unwrap();
    format!("100.64.{}.{}", number(high), number(low))
}

/// The MAC address on one side of a link, as Linux writes it.
pub fn mac(id: &str, provider: bool) -> String {
    let (high, low) = id.split_at(2);
    format!("0a:b3:ec:{}:{high}:{low}", if provider { "80" } else { "00" })
}

/// The network namespace of VMs that run in units.
pub const NAMESPACE: &str = "microvm-spectrum";

/// A command in the network namespace of VMs that run in units.
pub fn in_namespace<'a>(line: &[&'a str]) -> Vec<&'a str> {
    [&["ip", "netns", "exec", NAMESPACE], line].concat()
}

/// Interfaces and tables of rules that links could be made of, in the host's own network.
pub fn seen_by_the_host(host: &Host) -> Vec<String> {
    ours(&host.ok(&["sh", "-c", "cut -d: -f1 /proc/net/dev; nft list tables"]))
}

/// Everything of links that there is: interfaces and tables of rules, in the host's own
/// network (of VMs that run by hand) and in that of units, and records.
pub fn traces(host: &Host) -> Vec<String> {
    let of_units = ["sh", "-c", "cut -d: -f1 /proc/net/dev; nft list tables"];
    // It is made when the first VM starts.
    let of_units = host.machine.run(&in_namespace(&of_units)).stdout;
    let records = host.machine.run(&["find", RECORDS, "-type", "f"]).stdout;
    let mut all = [seen_by_the_host(host), ours(&of_units), ours(&records)].concat();
    all.sort();
    all
}

fn ours(lines: &str) -> Vec<String> {
    let ours =
        |line: &&str| ["vmb-", "vmc-", "vmr-", "table netdev vm", "/"].iter().any(|p| line.starts_with(p));
    lines.lines().map(str::trim).filter(ours).map(str::to_owned).collect()
}

/// What there should be of these links, by id and provider.
pub fn traces_of(links: &[(&str, &str)]) -> Vec<String> {
    let of = |(id, provider): &(&str, &str)| {
        let interfaces = ["vmb", "vmc", "vmr"].map(|kind| format!("{kind}-{id}"));
        let others = [format!("table netdev vm_{id}"), format!("{RECORDS}/{provider}/{id}.json")];
        interfaces.into_iter().chain(others)
    };
    let mut all: Vec<_> = links.iter().flat_map(of).collect();
    all.sort();
    all
}

/// Whether a ping from a guest is answered, tried once.
#[track_caller]
pub fn answers(host: &Host, vm: &str, ping: &str) -> bool {
    let told =
        host.in_guest(vm, &format!("ping -c 1 -W 1 {ping} >/tmp/ping 2>&1 && echo answered || echo silent"));
    match told.as_str() {
        "answered" => true,
        "silent" => false,
        other => panic!("{vm}: ping {ping}: {other:?}"),
    }
}

/// Waits until a ping from a guest is answered; how long that took.
#[track_caller]
pub fn wait_answers(host: &Host, vm: &str, ping: &str) -> Duration {
    let begin = Instant::now();
    wait_for(&format!("an answer to ping {ping} from {vm}"), || answers(host, vm, ping).then_some(()));
    begin.elapsed()
}

/// Waits until a provider's guest has found the interfaces of these links, each
/// once in this boot.
#[track_caller]
pub fn wait_plugged(host: &Host, provider: &str, links: &[&str]) {
    wait_for(&format!("{links:?} in {provider}"), || {
        let log = host.log(provider);
        let (_, boot) = log.rsplit_once("guest: cmdline ")?;
        let found = |id: &&str| told(boot, &format!(" provider of {}", address(id)));
        links.iter().all(found).then_some(())
    });
}

/// Whether a guest has said this, which ends in a number. Its kernel may have
/// gone on in the same line.
pub fn told(log: &str, text: &str) -> bool {
    log.match_indices(text).any(|(at, _)| !log[at + text.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// How many pings the host has received.
pub fn host_heard(host: &Host) -> u64 {
    echoes(&host.ok(&["cat", "/proc/net/snmp"]))
}

/// How many pings a machine has received, of its `/proc/net/snmp`.
pub fn echoes(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Icmp: ")).map(|line| line.split(' '));
    let column = lines.next().unwrap().position(|name| name == "InEchos").unwrap();
    lines.next().unwrap().nth(column).unwrap().parse().unwrap()
}

/// How often something is in what a VM's unit has printed.
pub fn said(host: &Host, vm: &str, what: &str) -> usize {
    host.machine.journal(&format!("microvm@{vm}.service")).matches(what).count()
}

/// The process of a VM's supervisor.
pub fn supervisor(host: &Host, vm: &str) -> String {
    host.machine.property(&format!("microvm@{vm}.service"), "MainPID")
}

/// A QEMU's control socket, which serves one at a time: the supervisor waits meanwhile.
pub struct Qmp {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Qmp {
    pub fn of(host: &Host, vm: &str) -> Self {
        let stream =
            UnixStream::connect(host.machine.path(&format!("/run/microvm/{vm}/{vm}.control.sock"))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        let mut qmp = Self { stream, lines };
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    /// Executes a command, which must succeed.
    #[track_caller]
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        writeln!(self.stream, "{}", json!({ "execute": command, "arguments": arguments })).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "{command}: QEMU has gone");
            let mut line: Value = serde_json::from_str(&line).unwrap();
            assert!(line.get("error").is_none(), "{command}: {line}");
            if let Some(result) = line.get_mut("return") {
                return result.take();
            }
        }
    }

    /// The devices of links that are plugged in, as they are called: with the number of the port.
    pub fn links(&mut self) -> Vec<String> {
        let all = self.execute("qom-list", &json!({"path": "/machine/peripheral"}));
        let names = all.as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap().to_owned());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("link-")).collect();
        names.sort();
        names
    }
}
