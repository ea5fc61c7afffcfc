// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Another version of the program takes over while VMs run: the next one does
//! with them what its own can, and the former one does or says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::program::{PROGRAM, Ran};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// The commit that the former version is built from.
const FORMER: &str = "4356cf5";
const STAND_IN: &str = "/usr/local/bin/stand-in";
/// One with a shared directory, and one that provides the network of another.
const NAMES: [&str; 3] = ["client", "net", "one"];

/// The former version, built once; or why there is none.
fn former() -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/checks/build-former");
    let mut command = Command::new(script);
    command.arg(cache.join("microvm-spectrum")).arg(FORMER).stdin(Stdio::null());
    let built = command.output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    match built.status.code() {
        Some(0) => Ok(PathBuf::from(String::from_utf8(built.stdout).unwrap().trim_end())),
        Some(75) => Err(said.trim().to_owned()),
        _ => panic!("{script}: {said}"),
    }
}

/// Installs a version in the place of another, as an administrator would.
fn install(host: &Host, program: &Path) {
    let new = host.machine.path(&format!("{INSTALLED}.new"));
    fs::copy(program, &new).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, host.machine.path(INSTALLED)).unwrap();
    host.ok(&[INSTALLED, "units", "--output", "/usr/local/lib"]);
    host.ok(&["systemd-sysusers"]);
    host.ok(&["systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/microvm-spectrum.conf"]);
    host.ok(&["systemctl", "daemon-reload"]);
}

/// A machine with the former version, where all VMs run.
fn with_former(former: &Path) -> Host {
    let host = Host::new();
    // All that `make uninstall` removes of units, so that no other is left.
    let units =
        "rm -rf /usr/local/lib/systemd/system/microvm* /usr/local/lib/systemd/system-generators/microvm-*";
    host.ok(&["sh", "-c", units]);
    host.machine.write(STAND_IN, include_str!("random_sequences/stand-in.pl"));
    fs::set_permissions(host.machine.path(STAND_IN), fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{PARTITION}'\n\
         [defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 64\n[tools]\nqemu-system-x86_64 = '{STAND_IN}'\n"
    );
    host.machine.write("/etc/microvm-spectrum/config.toml", &config);
    host.vm_with_share("one");
    host.vm("net");
    let client = host.vm("client");
    fs::create_dir_all(client.join("providers/net")).unwrap();
    fs::write(client.join("providers/net/net"), "").unwrap();
    install(&host, former);
    host.sync();
    host.run(&[&["start"], NAMES.as_slice()].concat()).exits(0);
    host
}

/// Which run of each VM it is; all run.
#[track_caller]
fn runs(host: &Host) -> Vec<String> {
    let run = |name: &&str| {
        let unit = format!("microvm@{name}.service");
        assert_eq!(host.machine.property(&unit, "ActiveState"), "active", "{name}");
        host.machine.property(&unit, "InvocationID")
    };
    NAMES.iter().map(run).collect()
}

/// What each VM was given, and its state as `list` has it.
fn given(host: &Host) -> Vec<Value> {
    let rows = NAMES.iter().map(|name| host.row(name));
    rows.map(|row| json!([row["name"], row["uid"], row["addresses"], row["state"]])).collect()
}

fn taps(host: &Host) -> String {
    let all = host.ok(&["ip", "-oneline", "link"]);
    all.lines().filter(|line| ["vmc-", "vmr-", "vmb-"].iter().any(|it| line.contains(it))).collect()
}

/// Stops, starts and restarts every VM, which must work.
#[track_caller]
fn control_all(host: &Host) {
    let all = |verb| host.run(&[&[verb], NAMES.as_slice()].concat()).exits(0);
    let before = runs(host);
    all("restart");
    let after = runs(host);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?}, {after:?}");
    all("stop");
    wait_for("the end of all helpers", || {
        let units = ["systemctl", "list-units", "--plain", "--no-legend", "microvm@*", "microvm-*@*.service"];
        host.ok(&units).is_empty().then_some(())
    });
    assert!(host.processes(&format!("perl {STAND_IN}")).is_empty());
    assert_eq!(taps(host), "");
    all("start");
    runs(host);
}

#[test]
fn the_next_version_takes_over_running_vms_and_the_former_one_says_what_it_cannot() {
    needs!(is_possible());
    let former = needs!(former());
    let host = with_former(&former);
    let (started, has) = (runs(&host), given(&host));
    assert!(has.iter().all(|vm| vm[3] == "running"), "{has:?}");

    // Upgrade: nothing is restarted by itself, and everything can be done.
    install(&host, Path::new(PROGRAM));
    assert_eq!((runs(&host), given(&host)), (started.clone(), has.clone()), "before a sync");
    host.sync();
    assert_eq!((runs(&host), given(&host)), (started.clone(), has.clone()), "after a sync");
    host.run(&["log", "one"]).exits(0);
    // One is stopped alone, while another that it was started with runs.
    host.run(&["stop", "one"]).exits(0);
    host.run(&["start", "one"]).exits(0);
    host.run(&["restart", "net"]).exits(0);
    control_all(&host);
    assert_eq!(given(&host), has);
    let stale: Vec<_> = NAMES.iter().map(|name| host.row(name)["stale"].clone()).collect();
    assert_eq!(stale, [json!([]), json!([]), json!([])]);

    // Downgrade: what runs is left alone, and systemd can stop it.
    let started = runs(&host);
    install(&host, &former);
    assert_eq!(runs(&host), started);
    for line in
        [&["list"][..], &["sync"], &["log", "one"], &["restart", "net"], &["stop", "one"], &["start", "one"]]
    {
        works_or_is_refused(&host.run(line), line);
    }
    let units = NAMES.map(|name| format!("microvm@{name}.service"));
    host.ok(&[vec!["systemctl", "stop"], units.iter().map(String::as_str).collect()].concat());
    assert!(host.processes(&format!("perl {STAND_IN}")).is_empty());

    // And upgrade again: what was given is still given.
    install(&host, Path::new(PROGRAM));
    host.sync();
    host.run(&[&["start"], NAMES.as_slice()].concat()).exits(0);
    control_all(&host);
    assert_eq!(given(&host), has);
}

/// It works, or it says why not in a sentence.
#[track_caller]
fn works_or_is_refused(ran: &Ran, line: &[&str]) {
    match ran.status {
        0 => {}
        1 | 3 => {
            let raw = |c: char| c.is_control() && c != '\n';
            assert!(ran.stderr.contains(' ') && !ran.stderr.contains(raw), "{line:?}: {ran:?}");
        }
        _ => panic!("{line:?}: {ran:?}"),
    }
}
