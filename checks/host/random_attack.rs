// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A random attack: for some seconds the owner of one partition changes it at random,
//! while VMs of another source start and stop. None of these fails, every command
//! ends in time, and afterwards everything is as it was.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MICROVM_SPECTRUM_ATTACK_SECONDS` | how long | 20 |
//! | `MICROVM_SPECTRUM_ATTACK_SEED` | what is done | 1 |
//!
//! It ran for an hour on 2026-11-21, with the seed 20261121 and a load of 20: 130,900
//! changes by the writer, and 467 starts (the slowest in 11.2 s), 584 stops (4.3 s),
//! 179 restarts (9.9 s), 143 killed VMs that came back (8.8 s), 103 syncs (8.6 s) and
//! 115 lists (7.7 s), beside 406 syncs by what watches and 1,340 reloads. None failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::program::Ran;
use crate::support::random::Random;
use crate::support::skip::needs;
use crate::support::systemd_machine::{alone, is_possible};
use crate::support::waiting::{Collected, wait_for, wait_or_explain};

/// Who owns the partition that is attacked from, and where it is.
const ATTACKER: u32 = 4343;
const STICK: &str = "/srv/E";
/// How long each command may take, in seconds, however busy the machine is.
const LIMIT: &str = "50";
/// The VMs of the other source: one with a shared directory, and one that provides
/// the network of another.
const VICTIMS: [&str; 3] = ["one", "client", "net"];

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// The writer, which ends with this value.
struct Writer {
    process: Child,
    said: Collected,
}

impl Writer {
    fn start(host: &Host, seed: u64) -> Self {
        let script = "/usr/local/lib/writer.pl";
        host.machine.write(script, include_str!("random_attack/writer.pl"));
        let seed = seed.to_string();
        let arguments = [&[script, &seed, STICK], VICTIMS.as_slice()].concat();
        let mut command = host.machine.command_as(ATTACKER, ATTACKER, "perl", arguments);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = Collected::from(process.stdout.take().unwrap());
        said.wait_for("100\n");
        Self { process, said }
    }

    /// Ends it, and returns how much it has done.
    fn stop(mut self) -> String {
        assert!(self.process.try_wait().unwrap().is_none(), "the writer has ended by itself");
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.said.text().lines().last().unwrap_or_default().to_owned()
    }
}

/// What has been done to the VMs of the other source, and what was wrong.
#[derive(Default)]
struct Tally {
    done: BTreeMap<&'static str, (usize, Duration)>,
    wrong: Vec<String>,
}

impl Tally {
    /// Does something, which must end with one of these statuses.
    fn run(&mut self, host: &Host, verb: &'static str, more: &[&str], right: &[i32]) -> Ran {
        let begun = Instant::now();
        let ran = host.machine.run(&[&["timeout", LIMIT, INSTALLED, verb], more].concat());
        let (times, slowest) = self.done.entry(verb).or_default();
        *times += 1;
        *slowest = begun.elapsed().max(*slowest);
        if !right.contains(&ran.status) {
            let said: String = ran.stderr.chars().take(600).collect();
            self.wrong.push(format!(
                "{verb} {more:?}: status {} after {:.1?}: {said}",
                ran.status,
                begun.elapsed()
            ));
        }
        ran
    }

    /// Kills a supervisor; its VM must come back.
    fn kill(&mut self, host: &Host, name: &str) {
        let unit = format!("microvm@{name}.service");
        let invocation = host.machine.property(&unit, "InvocationID");
        host.machine.run(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", &unit]);
        let begun = Instant::now();
        let back = || {
            let active = host.machine.property(&unit, "ActiveState") == "active";
            active && host.machine.property(&unit, "InvocationID") != invocation
        };
        let limit = Duration::from_secs(LIMIT.parse().unwrap());
        while !back() {
            if begun.elapsed() > limit {
                let status =
                    host.machine.run(&["systemctl", "status", "--no-pager", "--lines=5", &unit]).stdout;
                self.wrong.push(format!("{name} did not come back in {limit:?}: {status}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let (times, slowest) = self.done.entry("come back").or_default();
        *times += 1;
        *slowest = begun.elapsed().max(*slowest);
    }
}

fn world() -> Host {
    let host = Host::watching();
    let stand_in = "/usr/local/bin/stand-in";
    host.machine.write(stand_in, include_str!("random_sequences/stand-in.pl"));
    fs::set_permissions(host.machine.path(stand_in), fs::Permissions::from_mode(0o755)).unwrap();
    let source = |name: &str, path: &str| {
        format!("[[source]]\nkind = 'user-partition'\nname = '{name}'\npath = '{path}'\n")
    };
    let rest = format!(
        "[defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 64\n[tools]\nqemu-system-x86_64 = '{stand_in}'\n"
    );
    let config = source("user", PARTITION) + &source("stick", STICK) + &rest;
    host.machine.write("/etc/microvm-spectrum/config.toml", &config);
    host.vm_with_share("one");
    host.vm("net");
    let client = host.vm("client");
    fs::create_dir_all(client.join("providers/net")).unwrap();
    fs::write(client.join("providers/net/net"), "").unwrap();
    let owner = format!("--owner={ATTACKER}");
    host.ok(&[
        "install",
        "--directory",
        &owner,
        STICK,
        &format!("{STICK}/svc"),
        &format!("{STICK}/svc/data"),
    ]);
    host.ok(&["install", "--directory", &owner, &format!("{STICK}/shared")]);
    for file in ["vmlinux", "root.img"] {
        host.ok(&["install", &owner, "--mode=644", "/dev/null", &format!("{STICK}/{file}")]);
    }
    host.sync();
    host
}

/// What belongs to the victims, and must not change.
fn of_victims(host: &Host) -> Vec<serde_json::Value> {
    let row = |name: &&str| {
        let row = host.row(name);
        serde_json::json!([name, row["source"], row["uid"], row["addresses"], row["stale"]])
    };
    VICTIMS.iter().map(row).collect()
}

#[test]
fn the_owner_of_a_partition_disturbs_no_vm_of_another_source() {
    needs!(is_possible());
    let _alone = alone();
    let (seconds, seed) =
        (number("MICROVM_SPECTRUM_ATTACK_SECONDS", 20), number("MICROVM_SPECTRUM_ATTACK_SEED", 1));
    let host = world();
    let before = of_victims(&host);
    let mut tally = Tally::default();
    let mut random = Random(seed);
    let writer = Writer::start(&host, seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let name = random.pick(&VICTIMS).unwrap();
        let active = host.machine.property(&format!("microvm@{name}.service"), "ActiveState") == "active";
        match random.below(20) {
            0 => drop(tally.run(&host, "sync", &[], &[0, 1])),
            1 => drop(tally.run(&host, "list", &[], &[0])),
            2..4 => drop(tally.run(&host, "restart", &[name], &[0])),
            4..6 if active => tally.kill(&host, name),
            6..14 if active => drop(tally.run(&host, "stop", &[name], &[0])),
            _ if !active => drop(tally.run(&host, "start", &[name], &[0])),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
        // It started means that it runs.
        let state = host.machine.property(&format!("microvm@{name}.service"), "ActiveState");
        if !matches!(state.as_str(), "active" | "inactive") {
            tally.wrong.push(format!("{name} is {state}"));
        }
    }
    let changes = writer.stop();
    let mut report = format!("random attack: seed {seed}, {seconds} s, {changes} changes of the writer");
    for (what, (times, slowest)) in &tally.done {
        let _ = write!(report, "; {times} × {what}, the slowest in {slowest:.1?}");
    }
    let count = |pattern: &str| {
        let found = host.machine.run(&["journalctl", "--quiet", "--output=cat", "_PID=1", "--grep", pattern]);
        found.stdout.lines().count()
    };
    let (resyncs, reloads) = (count("^Starting microvm-spectrum-resync"), count("^Reloading"));
    let _ = writeln!(std::io::stderr(), "{report}; {resyncs} syncs by what watches, {reloads} reloads");
    let (times, first) = (tally.wrong.len(), tally.wrong.iter().take(10).map(String::as_str));
    assert!(times == 0, "{times} times, at first: {}", first.collect::<Vec<_>>().join("\n"));

    // It ends, and all is as it was.
    let settled = || host.machine.property("microvm-spectrum-resync.service", "ActiveState") != "activating";
    wait_or_explain(
        "the end of syncs",
        || settled().then_some(()),
        || host.machine.journal("microvm-spectrum-resync"),
    );
    assert_eq!(of_victims(&host), before);
    // The last thing that it did may have been to put something in the directory's place.
    let data = format!("{STICK}/svc/data");
    let empty = format!(
        "[ -d {data} ] && [ ! -L {data} ] || {{ rm -rf {data}; install -d --owner={ATTACKER} {data}; }}; \
         rm -rf {data}/* {data}/.hidden"
    );
    host.ok(&["sh", "-c", &empty]);
    // It is still watched, for as long as it has nothing to wait for. A scan may record itself meanwhile.
    wait_for("no records of scans", || {
        (host.machine.run(&["rm", "-rf", "/run/microvm-spectrum/scans"]).status == 0).then_some(())
    });
    let watch = "microvm-spectrum-source@stick.path";
    let watches = || (host.machine.property(watch, "ActiveState") == "active").then_some(());
    wait_or_explain("systemd to watch it again", watches, || host.machine.journal(watch));
    host.run(&["sync"]).exits(0);
    host.run(&[&["start"], VICTIMS.as_slice()].concat()).exits(0);
    host.run(&[&["stop"], VICTIMS.as_slice()].concat()).exits(0);
}
