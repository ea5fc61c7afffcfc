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
use std::time::{Duration, Instant, SystemTime};

use support::installed::Host;
use support::skip::needs;
use support::systemd_machine::is_possible;
use support::waiting::wait_for;

/// How often each is measured, in turn; minimum and median are printed.
const RUNS: usize = 10;
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

/// What was measured of one thing in all runs.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn min_and_median(&self) -> [f64; 2] {
        let mut times = self.0.clone();
        times.sort();
        [times[0], times[times.len() / 2]].map(|time| time.as_secs_f64() * 1e3)
    }

    fn print(&self, what: &str, baseline: &Self) {
        let ([min, median], [base_min, base_median]) = (self.min_and_median(), baseline.min_and_median());
        let (of_min, of_median) = (min / base_min, median / base_median);
        println!("{what:56} {min:7.0} {of_min:5.2} {median:7.0} {of_median:5.2}");
    }
}

/// From the start to the guest's first line, and from the stop to its end.
fn times(host: &Host) {
    let (mut bare_starts, mut bare_stops) = (Times::default(), Times::default());
    let mut vms = ["plain", "sharing"].map(|name| (name, Measured::default()));
    for _ in 0..RUNS {
        let (start, stop) = bare(host);
        bare_starts.0.push(start);
        bare_stops.0.push(stop);
        for (name, measured) in &mut vms {
            in_units(host, name, measured);
        }
    }
    let [(_, plain), (_, sharing)] = &vms;
    println!("{RUNS} runs of each, in turn; ratios to bare QEMU              min, ms      median, ms");
    bare_starts.print("bare QEMU: start to the guest's first line", &bare_starts);
    plain.first_line.print("systemctl start to the guest's first line", &bare_starts);
    sharing.first_line.print("  the same with a shared directory", &bare_starts);
    plain.returned.print("systemctl start returns", &bare_starts);
    bare_stops.print("bare QEMU: power button to its end", &bare_stops);
    plain.stopped.print("systemctl stop returns", &bare_stops);
    sharing.stopped.print("  the same with a shared directory", &bare_stops);
    for (name, measured) in &vms {
        println!("\nwhere the time of '{name}' goes                                min, ms      median, ms");
        for (step, times) in &measured.steps {
            let [min, median] = times.min_and_median();
            println!("{step:56} {min:7.0}       {median:7.0}");
        }
    }
}

/// The command of `microvm-spectrum command`, run directly.
fn bare(host: &Host) -> (Duration, Duration) {
    let command = host.run(&["command", "/var/lib/microvms/plain/current"]).stdout;
    // The time is told inside, so that going there is not measured.
    let script = format!("cd \"$(mktemp -d)\" && echo \"$PWD\" >/tmp/bare && date +%s%N && exec {command}");
    let mut child = host.machine.command("sh", ["-c", &script]);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut begin, mut line) = (String::new(), String::new());
    lines.read_line(&mut begin).unwrap();
    lines.read_line(&mut line).unwrap();
    let first_line = since_epoch() - Duration::from_nanos(begin.trim().parse().unwrap());
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

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// What was measured of one VM.
#[derive(Default)]
struct Measured {
    first_line: Times,
    returned: Times,
    stopped: Times,
    steps: Vec<(&'static str, Times)>,
}

impl Measured {
    fn add_steps(&mut self, steps: &[(&'static str, Duration)]) {
        for &(step, time) in steps {
            let known = self.steps.iter().position(|(known, _)| *known == step).unwrap_or_else(|| {
                self.steps.push((step, Times::default()));
                self.steps.len() - 1
            });
            self.steps[known].1.0.push(time);
        }
    }
}

fn in_units(host: &Host, name: &str, measured: &mut Measured) {
    let boots = host.boots(name);
    let unit = format!("microvm@{name}.service");
    let [begin, returned] = timed(host, "start", &unit);
    host.wait_boots(name, boots + 1);
    std::thread::sleep(SETTLE);
    let invocation = host.machine.property(&unit, "InvocationID");
    let printed = |of: &[&str]| -> Vec<Duration> {
        let id = format!("_SYSTEMD_INVOCATION_ID={invocation}");
        host.ok(&["journalctl", "--sync"]);
        let command = ["journalctl", "--output=json", "--output-fields=MESSAGE", &id];
        let lines = host.ok(&[&command, of].concat());
        let time = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Duration::from_micros(line["__REALTIME_TIMESTAMP"].as_str().unwrap().parse().unwrap())
        };
        lines.lines().map(time).collect()
    };
    let first = printed(&[&format!("SYSLOG_IDENTIFIER=microvm@{name}")])[0];
    measured.first_line.0.push(first - begin);
    measured.returned.0.push(returned - begin);
    measured.add_steps(&steps_of_start(host, name, begin, first));
    let [stop, stopped] = timed(host, "stop", &unit);
    measured.stopped.0.push(stopped - stop);
    // The last of it is the supervisor's own.
    let ended = *printed(&[]).last().unwrap();
    measured.add_steps(&[
        ("stop: until the guest, its monitor and the supervisor end", ended - stop),
        ("stop: systemd and systemctl", stopped - ended),
    ]);
}

/// When a verb of systemctl began and returned, since 1970.
fn timed(host: &Host, verb: &str, unit: &str) -> [Duration; 2] {
    // Inside, so that going there is not measured.
    let script = "date +%s%N; systemctl \"$1\" \"$2\"; date +%s%N";
    let told = host.ok(&["sh", "-c", script, "sh", verb, unit]);
    let times = told.lines().map(|time| Duration::from_nanos(time.parse().unwrap()));
    times.collect::<Vec<_>>().try_into().unwrap()
}

/// When a command of a unit ran last, and when the unit was active, since 1970.
struct Moments {
    start: Option<Duration>,
    stop: Option<Duration>,
    active: Option<Duration>,
}

impl Moments {
    fn of(host: &Host, unit: &str, command: &str) -> Self {
        let shown = host.ok(&[
            "systemctl",
            "show",
            "--timestamp=us+utc",
            "--property=ActiveEnterTimestamp",
            &format!("--property={command}"),
            unit,
        ]);
        let after = |word: &str| {
            let text = shown.split(word).nth(1)?.split(['\n', ']']).next()?;
            // `Sun 2026-11-22 04:29:02.959181 UTC`; or nothing, or `n/a`.
            let [_, day, time, _] = text.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let date = host.ok(&["date", "--utc", "+%s%N", "--date", &format!("{day} {time}")]);
            Some(Duration::from_nanos(date.parse().unwrap()))
        };
        let active = after("ActiveEnterTimestamp=");
        Self { start: after("start_time=["), stop: after("stop_time=["), active }
    }
}

/// What each part of a start takes, in the order in which they begin.
fn steps_of_start(
    host: &Host,
    name: &str,
    begin: Duration,
    first_line: Duration,
) -> Vec<(&'static str, Duration)> {
    let helpers = [
        ("microvm-spectrum-network", "microvm-spectrum-network.service".to_owned()),
        ("microvm-set-booted@", format!("microvm-set-booted@{name}.service")),
        ("microvm-virtiofsd@, until it serves", format!("microvm-virtiofsd@{name}.service")),
    ];
    let (mut steps, mut first) = (Vec::new(), None);
    for (step, unit) in &helpers {
        let moments = Moments::of(host, unit, "ExecStart");
        // Not one that a condition has kept from starting this time.
        let Some(start) = moments.start.filter(|start| *start > begin) else { continue };
        first.get_or_insert(start);
        steps.push((*step, moments.active.filter(|it| *it > start).or(moments.stop).unwrap() - start));
    }
    let unit = format!("microvm@{name}.service");
    let main = Moments::of(host, &unit, "ExecStart").start.unwrap();
    // The supervisor locks the directory, and QEMU binds its sockets there.
    let made = |file: &str| {
        let path = format!("/run/microvm/{name}/{name}.{file}");
        let time = host.ok(&["stat", "--format=%.9Y", &path]);
        Duration::from_nanos(time.replace('.', "").parse().unwrap())
    };
    let running = made("run.lock");
    steps.push(("microvm@: sandbox and start of the supervisor", running.saturating_sub(main)));
    let until_main: Duration = steps.iter().map(|(_, time)| *time).sum();
    let first = first.unwrap_or(main);
    let besides = (running - first).saturating_sub(until_main);
    steps.insert(0, ("systemctl and systemd, until the first process", first - begin));
    steps.push(("systemd between these processes", besides));
    steps.push(("the monitor, until it listens", made("control.sock").saturating_sub(running)));
    steps.push(("the monitor and its guest, until the first line", first_line - running));
    steps
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
