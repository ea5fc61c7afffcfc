// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Every exit status that `docs/exit-statuses.md` has is one that the command can end with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::program::{build, call};
use crate::support::vm_directory::root_image;
use crate::sync_host::{Host, host, script};

/// Those that need VMs that run, or a host that lacks nothing: tests of the suite `host` bring
/// them about, in files that are called as the command.
const OF_HOST: [(&str, i32); 4] = [("console", 0), ("console", 3), ("doctor", 0), ("doctor", 1)];

/// A host where `good` is installed and can run, `odd` has errors, and `gone` was removed.
fn place() -> (Host, String) {
    let host = host();
    for name in ["good", "gone", "odd"] {
        host.vm(name);
    }
    host.synced();
    fs::remove_dir_all(host.partition.root.join("svc/data/gone")).unwrap();
    fs::remove_file(host.partition.root.join("svc/data/odd/vmlinux")).unwrap();
    assert_eq!(status(&mut host.sync()), 1);
    let bin = host.root.join("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["systemctl", "journalctl"] {
        script(&bin.join(program), "");
    }
    let path = bin.to_str().unwrap().to_owned();
    (host, path)
}

fn status(command: &mut Command) -> i32 {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().code().unwrap()
}

/// The status of a command whose output nothing takes.
fn status_full(mut command: Command) -> i32 {
    let full = File::options().write(true).open("/dev/full").unwrap();
    command.stdout(full).stderr(Stdio::null()).status().unwrap().code().unwrap()
}

#[test]
fn every_documented_status_is_one_that_a_command_ends_with() {
    let (host, path) = place();
    let mut found = BTreeSet::new();
    let mut ended = |command: &str, status: i32| {
        found.insert((command.to_owned(), status));
    };
    let directory = |name: &str| host.partition.root.join("svc/data").join(name);
    let (config, state) = (host.config.to_str().unwrap(), host.state.to_str().unwrap());
    let nowhere = host.root.join("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let installed = |arguments: &[&str], state: &str| {
        let mut command = call(arguments);
        command.args(["--state-dir", state]).env("PATH", &path);
        command
    };
    let mut damaged = host.root.join("damaged");
    fs::create_dir_all(damaged.join(".microvm-spectrum/current")).unwrap();
    fs::write(damaged.join(".microvm-spectrum/current/catalog.json"), "{}").unwrap();
    let damaged = damaged.as_mut_os_str().to_str().unwrap().to_owned();

    let (disk, kernel) = (host.root.join("disk.img"), directory("good").join("vmlinux"));
    fs::write(&disk, root_image()).unwrap();
    let made_in = host.root.join("new");
    for place in [made_in.as_path(), &made_in, Path::new("/proc/nowhere")] {
        let mut command = call(["new", "fresh", "--directory"]);
        command.arg(place).arg("--from").arg(&disk).arg("--kernel").arg(&kernel);
        ended("new", status(&mut command));
    }

    for name in ["good", "odd"] {
        ended("check", status(&mut call(["check", directory(name).to_str().unwrap()])));
    }
    for arguments in [vec!["check"], vec!["list"], vec!["graph"], vec!["status", "good"]] {
        ended(arguments[0], status(&mut installed(&arguments, state)));
        ended(arguments[0], status(&mut installed(&arguments, nowhere)));
        ended(arguments[0], status(&mut installed(&arguments, &damaged)));
        ended(arguments[0], status_full(installed(&arguments, state)));
    }
    for arguments in [["check-config", config], ["check-config", nowhere], ["check-config", state]] {
        ended("check-config", status(&mut call(arguments)));
    }

    let output = host.root.join("package");
    ended("build", status(&mut build(&directory("good"), &output, "qemu")));
    ended("build", status(&mut build(&directory("good"), &output, "qemu")));
    ended("build", status(&mut build(&directory("good"), Path::new("/proc/nowhere"), "qemu")));
    let package = output.to_str().unwrap();
    ended("command", status(&mut call(["command", package])));
    ended("command", status(&mut call(["command", nowhere])));
    ended("command", status_full(call(["command", package])));

    ended("sync", status(&mut host.sync()));
    ended("sync", status(&mut host.sync_to(Path::new("/proc/nowhere"))));
    ended("forget", status(&mut installed(&["forget", "--no-systemd", "good"], state)));
    ended("forget", status(&mut installed(&["forget", "--no-systemd", "gone"], "/proc/nowhere")));
    ended("forget", status(&mut installed(&["forget", "--no-systemd", "gone"], state)));
    fs::remove_dir_all(directory("odd")).unwrap();
    ended("sync", status(&mut host.sync()));

    for verb in ["start", "stop", "restart", "log"] {
        ended(verb, status(&mut installed(&[verb, "good"], state)));
        ended(verb, status(&mut installed(&[verb, "nobody"], state)));
        // No program of systemd's.
        ended(verb, status(installed(&[verb, "good"], state).env("PATH", nowhere)));
    }
    ended("console", status(&mut installed(&["console", "good"], state)));
    for config in [config, nowhere] {
        ended("doctor", status(&mut installed(&["doctor", "--config", config], &damaged)));
    }

    let library = host.root.join("lib");
    ended("units", status(&mut call(["units", "--output", library.to_str().unwrap()])));
    ended("units", status(&mut call(["units", "--output", "/proc/nowhere"])));
    ended("completion", status(&mut call(["completion", "bash"])));
    ended("completion", status_full(call(["completion", "bash"])));

    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-statuses.md");
    let table = fs::read_to_string(table).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let mut expected = BTreeSet::new();
    for (name, cells) in rows {
        ended(name, status(&mut call([name, "--no-such-option"])));
        let cells = cells.trim_end_matches('|').split(" | ").zip(0..);
        let named = cells.filter(|(cell, _)| !cell.trim().is_empty());
        expected.extend(named.map(|(_, status)| (name.to_owned(), status)));
    }
    assert!(expected.len() > 50, "{expected:?}");
    found.extend(OF_HOST.map(|(name, status)| (name.to_owned(), status)));
    let missing: Vec<_> = expected.difference(&found).collect();
    let undocumented: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && undocumented.is_empty(),
        "not seen: {missing:?}, not said: {undocumented:?}"
    );
}
