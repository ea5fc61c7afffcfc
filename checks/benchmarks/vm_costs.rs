// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the host side costs: `make benchmark`.
//!
//! On a real systemd, with a real guest under TCG. Each figure stands beside
//! that of the bare QEMU command in the same run, and the ratio is what counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::installed::Host;
use support::skip::needs;
use support::systemd_machine::is_possible;
use support::waiting::wait_for;

/// How often each is measured; the medians are printed.
const RUNS: usize = 7;
/// Until a guest that is up listens to its power button.
const SETTLE: Duration = Duration::from_millis(500);
/// How many VMs share what they have in common when memory is measured.
const VMS: usize = 8;

fn main() {
    // `cargo test --benches` and the like only want to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    needs!(is_possible());
    let host = Host::new();
    host.vm("plain");
    host.vm_with_share("sharing");
    host.sync();
    times(&host);
    memory(&host);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// From the start to the guest's first line, and from the stop to its end.
fn times(host: &Host) {
    let (mut bare_starts, mut unit_starts, mut share_starts, mut returns) = (vec![], vec![], vec![], vec![]);
    let (mut bare_stops, mut unit_stops, mut share_stops) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        let (start, stop) = bare(host);
        bare_starts.push(start);
        bare_stops.push(stop);
        for (name, starts, stops) in
            [("plain", &mut unit_starts, &mut unit_stops), ("sharing", &mut share_starts, &mut share_stops)]
        {
            let (returned, first_line, stopped) = in_units(host, name);
            starts.push(first_line);
            stops.push(stopped);
            if name == "plain" {
                returns.push(returned);
            }
        }
    }
    let [bare_start, bare_stop] = [bare_starts, bare_stops].map(median);
    println!("median of {RUNS} runs                                            seconds  ratio to bare QEMU");
    let line = |what: &str, time: Duration, baseline: Duration| {
        let ratio = time.as_secs_f64() / baseline.as_secs_f64();
        println!("{what:60} {:7.3}  {ratio:.2}", time.as_secs_f64());
    };
    line("bare QEMU: start to the guest's first line", bare_start, bare_start);
    line("systemctl start to the guest's first line", median(unit_starts), bare_start);
    line("  the same with a shared directory", median(share_starts), bare_start);
    line("systemctl start returns", median(returns), bare_start);
    line("bare QEMU: power button to its end", bare_stop, bare_stop);
    line("systemctl stop returns", median(unit_stops), bare_stop);
    let share_stop = median(share_stops);
    line("  the same with a shared directory", share_stop, bare_stop);
    let beyond = share_stop.saturating_sub(bare_stop).as_secs_f64();
    println!("a stop with a shared directory takes {beyond:.3} s beyond the guest's own (goal: under 1 s)");
}

/// The command of `microvm-spectrum command`, run directly.
fn bare(host: &Host) -> (Duration, Duration) {
    let command = host.run(&["command", "/var/lib/microvms/plain/current"]).stdout;
    let script = format!("cd \"$(mktemp -d)\" && echo \"$PWD\" >/tmp/bare && exec {command}");
    let mut child = host.machine.command("sh", ["-c", &script]);
    let begin = Instant::now();
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let first_line = begin.elapsed();
    while !line.contains("guest: ready") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the guest has ended");
    }
    std::thread::sleep(SETTLE);
    // The control socket is QMP; who presses the button is not what is measured.
    let directory = host.machine.read("/tmp/bare");
    let socket = host.machine.path(&format!("{}/plain.control.sock", directory.trim()));
    let qmp = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let begin = Instant::now();
    use std::io::Write as _;
    (&qmp).write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"system_powerdown\"}").unwrap();
    lines.read_to_end(&mut Vec::new()).unwrap();
    child.wait().unwrap();
    (first_line, begin.elapsed())
}

fn in_units(host: &Host, name: &str) -> (Duration, Duration, Duration) {
    let boots = host.boots(name);
    let unit = format!("microvm@{name}.service");
    // Inside, so that going there is not measured.
    let script = "date +%s%N; systemctl start \"$1\"; date +%s%N";
    let told = host.ok(&["sh", "-c", script, "sh", &unit]);
    let [begin, returned] =
        told.lines().map(|t| t.parse::<u64>().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    host.wait_boots(name, boots + 1);
    std::thread::sleep(SETTLE);
    let invocation = host.machine.property(&unit, "InvocationID");
    let lines = host.ok(&[
        "journalctl",
        "--output=json",
        "--output-fields=MESSAGE",
        &format!("_SYSTEMD_INVOCATION_ID={invocation}"),
        &format!("SYSLOG_IDENTIFIER=microvm@{name}"),
    ]);
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let first: u64 = first["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap();
    let told = host.ok(&["sh", "-c", "date +%s%N; systemctl stop \"$1\"; date +%s%N", "sh", &unit]);
    let [stop, stopped] =
        told.lines().map(|t| t.parse::<u64>().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    let from_nanos = Duration::from_nanos;
    (from_nanos(returned - begin), from_nanos(first * 1000 - begin), from_nanos(stopped - stop))
}

/// What a VM costs besides its monitor: the proportional set size of all else.
fn memory(host: &Host) {
    let names: Vec<_> = (0..VMS).map(|number| format!("vm-{number}")).collect();
    for name in &names {
        host.vm_with_share(name);
    }
    host.configure("[vm.plain]\nmemory = 64\n");
    host.sync();
    for name in &names {
        host.run(&["start", name]).exits(0);
    }
    wait_for("all guests", || names.iter().all(|name| host.boots(name) > 0).then_some(()));
    let pss = |pattern: &str| -> f64 {
        let all = host.processes(pattern).into_iter().map(|pid| {
            let text = host.machine.read(&format!("/proc/{pid}/smaps_rollup"));
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap()
        });
        all.sum::<f64>() / 1024.0 / VMS as f64
    };
    let supervisor = pss("microvm-spectrum vm run");
    let server = pss("microvm-spectrum host .* virtiofsd");
    let virtiofsd = pss("virtiofsd --fd");
    println!("\nmemory of each of {VMS} VMs (PSS)                               MiB");
    println!("{:60} {supervisor:7.2}", "supervisor (goal: all but the monitor under 3)");
    println!("{:60} {server:7.2}", "  with a shared directory: what starts virtiofsd");
    println!("{:60} {virtiofsd:7.2}", "  with a shared directory: virtiofsd itself");
    println!("{:60} {:7.2}", "the monitor, for comparison", pss("qemu-system"));
}
