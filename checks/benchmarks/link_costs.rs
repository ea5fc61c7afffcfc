// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a link between VMs costs: `make benchmark`.
//!
//! On a real systemd, with real guests under TCG. The link's figures stand beside
//! those of the same two taps of the same two running guests when they are joined
//! by a plain bridge, by hand; both take turns, and the ratio is what counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use support::installed::{Host, INSTALLED};
use support::links::{PROVIDER, address, client, in_namespace, link, wait_answers};
use support::skip::needs;
use support::systemd_machine::is_possible;
use support::waiting::wait_for;

/// How often each is measured; the medians are printed.
const RUNS: usize = 5;
/// For how long as much as possible is sent, in seconds.
const SENDING: u32 = 2;
/// How many pings one measurement of the latency takes.
const PINGS: u32 = 100;

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    needs!(is_possible());
    let host = Host::new();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("netvm");
    println!("median of {RUNS} runs                                            seconds");
    start(&host);
    println!("\nbetween two guests, median of {RUNS} runs                link    plain bridge  ratio");
    transfer(&host);
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// From a client's start to the first ping that it answers to its provider.
fn start(host: &Host) {
    let address = address(&link(host, "app", "netvm"));
    // A guest asks once in a second who has an address, which would be measured.
    host.in_guest("netvm", "echo 20 >/proc/sys/net/ipv4/neigh/default/retrans_time_ms");
    let (mut boots, mut answers) = (vec![], vec![]);
    for run in 0..RUNS {
        // It asks twenty times a second, from before there is anybody to answer.
        let script = format!(
            "(until ping -i 0.05 -c 1000 -w 60 {address} 2>&1 | grep -m 1 'bytes from' >/dev/console; \
             do usleep 20000; done) &"
        );
        host.in_guest("netvm", &script);
        let begin = host.ok(&["sh", "-c", "date +%s%6N; systemctl start microvm@app.service"]);
        let begin: f64 = begin.parse().unwrap();
        let time = |vm: &str, what: &str| {
            wait_for(what, || Some(lines(host, vm, what)).filter(|times| times.len() > run))[run] - begin
        };
        boots.push(time("app", "guest: ready") / 1e6);
        answers.push(time("netvm", "64 bytes from") / 1e6);
        host.ok(&["systemctl", "stop", "microvm@app.service"]);
    }
    println!("{:60} {:7.3}", "systemctl start of a client to its guest's last line", median(boots));
    println!("{:60} {:7.3}", "systemctl start of a client to its first answer", median(answers));
}

/// When a VM's guest has said something, in microseconds.
fn lines(host: &Host, vm: &str, what: &str) -> Vec<f64> {
    host.ok(&["journalctl", "--sync"]);
    let identifier = format!("SYSLOG_IDENTIFIER=microvm@{vm}");
    let all = host.ok(&["journalctl", "--output=json", "--output-fields=MESSAGE", "--boot", &identifier]);
    let lines = all.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["MESSAGE"].as_str().is_some_and(|message| message.contains(what)))
        .map(|line| line["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap())
        .collect()
}

/// Throughput and latency of the link, and of a plain bridge.
fn transfer(host: &Host) {
    let id = link(host, "app", "netvm");
    host.start("app");
    wait_answers(host, "app", PROVIDER);
    let user = format!("MICROVM_SPECTRUM_USER={}", host.row("app")["uid"]);
    let as_link = || {
        host.ok(&in_namespace(&["env", &user, INSTALLED, "host", "tap-up", "app"]));
    };
    let as_bridge = || {
        host.ok(&in_namespace(&["nft", "delete", "table", "netdev", &format!("vm_{id}")]));
        host.ok(&in_namespace(&["ip", "link", "set", "dev", &format!("vmb-{id}"), "up"]));
    };
    let (mut there, mut back, mut latency) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
    for _ in 0..RUNS {
        for (index, join) in [&as_link as &dyn Fn(), &as_bridge].into_iter().enumerate() {
            join();
            // It may have been plugged in again.
            std::thread::sleep(Duration::from_millis(500));
            wait_answers(host, "app", PROVIDER);
            there[index].push(throughput(host, "app", ("netvm", PROVIDER)));
            back[index].push(throughput(host, "netvm", ("app", &address(&id))));
            latency[index].push(round_trip(host));
        }
    }
    let line = |what: &str, [link, bridge]: [Vec<f64>; 2]| {
        let (link, bridge) = (median(link), median(bridge));
        println!("{what:50} {link:8.3}  {bridge:12.3}  {:.2}", link / bridge);
    };
    line("throughput from the client, MiB/s", there);
    line("throughput to the client, MiB/s", back);
    line("time of a ping, ms", latency);
}

/// MiB per second that a guest sends to another, over TCP.
fn throughput(host: &Host, from: &str, (to, address): (&str, &str)) -> f64 {
    // An input that never ends: else it would tell the other side to end.
    host.in_guest(
        to,
        "[ -p /tmp/silence ] || mkfifo /tmp/silence; nc -l -p 5001 <>/tmp/silence >/dev/null &",
    );
    wait_for("a listener", || host.in_guest(to, "netstat -ltn").contains(":5001 ").then_some(()));
    let state = "cat /sys/class/net/eth*/statistics/tx_bytes /proc/uptime";
    let send = format!("(timeout {SENDING} cat /dev/zero | nc {address} 5001) 2>/dev/null");
    let told = host.in_guest(from, &format!("{state}; {send}; {state}"));
    // Bytes, seconds since it booted, seconds that it idled; before and after.
    let numbers = told.split_whitespace().map(|number| number.parse().unwrap_or_else(|_| panic!("{told}")));
    let numbers: Vec<f64> = numbers.collect();
    (numbers[3] - numbers[0]) / (numbers[4] - numbers[1]) / f64::from(1 << 20)
}

/// Milliseconds until a ping is answered.
fn round_trip(host: &Host) -> f64 {
    let told = host.in_guest("app", &format!("ping -q -i 0.01 -c {PINGS} {PROVIDER}"));
    let times = told.split("round-trip min/avg/max = ").nth(1).unwrap_or_else(|| panic!("{told}"));
    times.split('/').nth(1).unwrap().parse().unwrap()
}
