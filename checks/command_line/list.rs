// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `list`: every VM with its state, where there is a systemd and where there is none.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::program::{run, run_with};
use crate::support::skip::needs;
use crate::support::terminal::Terminal;
use crate::support::vm_directory::Partition;
use crate::sync_host::{Host, host, script};

/// A directory for PATH, with a stand-in systemctl that prints this.
fn systemctl(host: &Host, says: &str, status: u8) -> PathBuf {
    let directory = host.root.join("bin");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("says"), says).unwrap();
    let place = directory.display();
    // PATH has nothing else, so the shell does it all by itself.
    let copy = "while IFS= read -r line; do printf '%s\\n' \"$line\"; done";
    let text = format!("printf '%s\\n' \"$@\" >'{place}/called'\n{copy} <'{place}/says'\nexit {status}\n");
    script(&directory.join("systemctl"), &text);
    directory
}

fn list(host: &Host, path: &Path) -> Command {
    let mut command = host.call(&["list"]);
    command.env("PATH", path);
    command
}

/// A host with a VM in every state that `sync` knows, and one that another program installed.
fn with_all_kinds() -> (Host, Partition) {
    let host = host();
    let second = Partition::at(&host.root.join("second"));
    host.vm("client").provider("netvm").provider("vpn");
    host.vm("lost").provider("nobody");
    host.vm("netvm");
    host.vm("vpn");
    host.vm("plain");
    host.vm("broken").file("wayland", b"");
    second.vm("plain").image("root.img", b"");
    host.configure_sources(
        &[("user", &host.partition.root), ("second", &second.root)],
        "[vm.'user/plain']\nhypervisor = 'qemu'\naccel = 'tcg'\nautostart = true\n",
    );
    run(&mut host.sync()).exits(1);
    let theirs = host.root.join("their-package");
    fs::create_dir_all(theirs.join("share/microvm")).unwrap();
    fs::write(theirs.join("share/microvm/hypervisor"), "firecracker\u{1b}[31m\n").unwrap();
    fs::create_dir(host.state.join("theirs")).unwrap();
    symlink(&theirs, host.state.join("theirs/current")).unwrap();
    (host, second)
}

#[test]
fn without_systemd_the_states_are_unknown() {
    let (host, _second) = with_all_kinds();
    let none = host.root.join("none");
    fs::create_dir(&none).unwrap();
    let failing = systemctl(&host, "System has not been booted with systemd as init system", 1);
    let [first, second] = addresses(&host);
    let ipv4 = format!("{first},{second}");
    let problem = host.in_catalog("user/broken")["problems"][0].clone();
    let text = |key: &str| problem[key].as_str().unwrap().to_owned();
    let broken = format!("{}: {}", text("path"), text("cause"));
    assert!(broken.len() > 100, "{broken}");
    let expected = [
        ["NAME", "STATE", "HYPERVISOR", "SOURCE", "ADDRESS", ""],
        ["broken", "broken", "-", "user", "-", broken.as_str()],
        ["client", "unknown", "cloud-hypervisor", "user", ipv4.as_str(), ""],
        ["lost", "blocked", "-", "user", "-", "its network provider nobody does not exist"],
        ["netvm", "unknown", "cloud-hypervisor", "user", "-", ""],
        ["plain", "unknown", "qemu", "user", "-", ""],
        ["plain", "shadowed", "-", "second", "-", "by the VM of that name in user"],
        ["theirs", "unknown", "firecracker\\u{1b}[31m", "-", "-", ""],
        ["vpn", "unknown", "cloud-hypervisor", "user", "-", ""],
    ];
    let widths = [6, 8, 21, 6, ipv4.len()];
    let line = |cells: [&str; 6]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        format!("{}{}", padded.collect::<String>(), cells[5]).trim_end().to_owned() + "\n"
    };
    for path in [none, failing] {
        let ran = run(list(&host, &path).arg("--all")).exits(0);
        assert_eq!((ran.stdout, ran.stderr), (expected.map(line).concat(), String::new()));
    }
}

#[test]
fn a_terminal_has_a_line_for_each_vm() {
    let (host, _second) = with_all_kinds();
    let call = list(&host, Path::new("/nowhere"));
    let mut seated = Command::new("setsid");
    seated.arg("--ctty").arg(call.get_program()).args(call.get_args());
    for (columns, longest) in [(120, 120), (160, 160), (400, 400)] {
        let mut terminal = Terminal::start(&seated, 24, columns);
        assert!(terminal.end().success());
        terminal.wait_for("vpn");
        let text = terminal.text();
        let broken = text.lines().find(|line| line.starts_with("broken")).unwrap();
        let length = broken.chars().count();
        assert_eq!((length <= longest, broken.ends_with('…')), (true, columns < 400), "{columns}: {broken}");
        assert!(columns == 400 || length == longest, "{columns}: {length}");
    }
}

/// The addresses of the VM `client`.
fn addresses(host: &Host) -> [String; 2] {
    let links = host.in_catalog("user/client")["links"].clone();
    [0, 1].map(|index: usize| links[index]["ipv4"].as_str().unwrap().to_owned())
}

#[test]
fn one_json_document() {
    let (host, _second) = with_all_kinds();
    let none = host.root.join("none");
    fs::create_dir(&none).unwrap();
    let ran = run(list(&host, &none).args(["--json", "--all"])).exits(0);
    let list: Value = serde_json::from_str(&ran.stdout).unwrap();
    let problem = host.in_catalog("user/broken")["problems"][0].clone();
    let broken = format!("{}: {}", problem["path"].as_str().unwrap(), problem["cause"].as_str().unwrap());
    let [first, second] = addresses(&host);
    assert_eq!(
        list,
        json!({"version": 1, "vms": [
            {"name": "broken", "state": "broken", "detail": broken, "hypervisor": null, "source": "user",
             "addresses": [], "uid": null, "autostart": false, "stale": []},
            {"name": "client", "state": "unknown", "detail": null, "hypervisor": "cloud-hypervisor",
             "source": "user", "addresses": [first, second], "uid": host.uid("user/client"), "autostart": false, "stale": []},
            {"name": "lost", "state": "blocked", "detail": "its network provider nobody does not exist",
             "hypervisor": null, "source": "user", "addresses": [], "uid": null, "autostart": false, "stale": []},
            {"name": "netvm", "state": "unknown", "detail": null, "hypervisor": "cloud-hypervisor",
             "source": "user", "addresses": [], "uid": host.uid("user/netvm"), "autostart": false, "stale": []},
            {"name": "plain", "state": "unknown", "detail": null, "hypervisor": "qemu", "source": "user",
             "addresses": [], "uid": host.uid("user/plain"), "autostart": true, "stale": []},
            {"name": "plain", "state": "shadowed", "detail": "by the VM of that name in user",
             "hypervisor": null, "source": "second", "addresses": [], "uid": null, "autostart": false, "stale": []},
            {"name": "theirs", "state": "unknown", "detail": null, "hypervisor": "firecracker\\u{1b}[31m",
             "source": null, "addresses": [], "uid": null, "autostart": false, "stale": []},
            {"name": "vpn", "state": "unknown", "detail": null, "hypervisor": "cloud-hypervisor",
             "source": "user", "addresses": [], "uid": host.uid("user/vpn"), "autostart": false, "stale": []},
        ]})
    );
    assert!(ran.stdout.ends_with("}\n") && ran.stderr.is_empty());
}

#[test]
fn systemd_tells_the_states() {
    let host = host();
    let states = [
        ("a", "active", "running", "running"),
        ("b", "activating", "start", "starting"),
        ("c", "activating", "auto-restart", "restarting"),
        ("d", "deactivating", "stop-sigterm", "stopping"),
        ("e", "failed", "failed", "failed"),
        ("f", "inactive", "dead", "stopped"),
        ("g", "reloading", "reload", "running"),
    ];
    let mut says = String::new();
    for (name, active, sub, _) in states {
        host.vm(name);
        // What the supervisor says may repeat what the guest said.
        let text = "it = \u{1b}]0;t\u{7}\u{202e}";
        says += &format!(
            "Id=microvm@{name}.service\nActiveState={active}\nSubState={sub}\nStatusText={text}\n\n"
        );
    }
    // One that systemd has not loaded.
    host.vm("silent");
    host.synced();
    let path = systemctl(&host, &says, 0);
    let ran = run(list(&host, &path).arg("--json")).exits(0);
    let list: Value = serde_json::from_str(&ran.stdout).unwrap();
    for (row, (name, _, _, state)) in list["vms"].as_array().unwrap().iter().zip(states) {
        let detail = matches!(state, "failed" | "restarting").then_some("it = \\u{1b}]0;t\\u{7}\\u{202e}");
        assert_eq!(
            (&row["name"], &row["state"], &row["detail"]),
            (&json!(name), &json!(state), &json!(detail))
        );
    }
    assert_eq!(list["vms"][7]["state"], "stopped");
    let table = run(&mut self::list(&host, &path)).exits(0).stdout;
    assert!(!table.contains('\u{202e}') && table.contains("\\u{202e}"), "{table}");
    // It was asked of those that it has, and not to load thousands.
    let called = fs::read_to_string(path.join("called")).unwrap();
    let units: Vec<_> = called.lines().filter(|line| line.starts_with("microvm@")).collect();
    assert_eq!(units, ["microvm@*.service"]);
    assert_eq!(called.lines().next(), Some("show"));
}

#[test]
fn a_broken_vm_that_still_runs_is_running() {
    let host = host();
    host.vm("a").file("wayland", b"");
    run(&mut host.sync()).exits(1);
    for (active, state) in
        [("active", "running"), ("deactivating", "stopping"), ("inactive", "broken"), ("failed", "broken")]
    {
        let path = systemctl(
            &host,
            &format!("Id=microvm@a.service\nActiveState={active}\nSubState=x\nStatusText=\n"),
            0,
        );
        let ran = run(list(&host, &path).arg("--json")).exits(0);
        let list: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(list["vms"][0]["state"], state, "{active}");
        assert!(list["vms"][0]["detail"].as_str().unwrap().contains("wayland"));
    }
}

#[test]
fn nothing_is_installed() {
    let host = host();
    let header = "NAME  STATE  HYPERVISOR  SOURCE  ADDRESS\n";
    assert_eq!(run(&mut host.call(&["list"])).exits(0).stdout, header);
    host.synced();
    assert_eq!(run(&mut host.call(&["list"])).exits(0).stdout, header);
    let json = run(host.call(&["list"]).arg("--json")).exits(0).stdout;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({"version": 1, "vms": []}));
}

#[test]
fn nobody_reads_it_or_the_disk_is_full() {
    let host = host();
    host.vm("a");
    host.synced();
    for json in [&[][..], &["--json"]] {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(read);
        run_with(host.call(&["list"]).args(json), write.into(), Stdio::piped()).exits(0).says_nothing();
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = run_with(host.call(&["list"]).args(json), full.into(), Stdio::piped()).exits(3);
        ran.complains(&["the list cannot be written"]);
    }
}

#[test]
fn a_catalog_that_cannot_be_used_is_not_passed_over() {
    let host = host();
    host.vm("a");
    host.synced();
    let catalog = host.own("current/catalog.json");
    let good = fs::read_to_string(&catalog).unwrap();
    for (bad, why) in [
        ("{".to_owned(), "is not a catalog"),
        (good.replace("\"version\": 1", "\"version\": 9"), "has version 9"),
    ] {
        fs::write(&catalog, bad).unwrap();
        for json in [&[][..], &["--json"]] {
            let ran = run(host.call(&["list"]).args(json)).exits(1);
            let expected = format!("error: {}: {why}", catalog.display());
            assert!(ran.stderr.starts_with(&expected) && !ran.stdout.is_empty(), "{}", ran.stderr);
            assert!(
                ran.stderr.contains("help: run 'microvm-spectrum sync' to write it again"),
                "{}",
                ran.stderr
            );
        }
        for verb in ["start", "stop", "log", "console"] {
            let ran = run(&mut host.call(&[verb, "a"])).exits(1);
            assert!(ran.stderr.contains(why) && !ran.stderr.contains("none is installed"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_file_in_the_state_directory_is_no_vm() {
    let host = host();
    host.synced();
    fs::write(host.state.join("notes.txt"), "").unwrap();
    fs::create_dir(host.state.join("empty")).unwrap();
    symlink("/nowhere", host.state.join("link")).unwrap();
    assert_eq!(run(&mut host.call(&["list"])).exits(0).stdout.lines().count(), 1);
    run(&mut host.call(&["start", "notes.txt"])).exits(1).complains(&["there is no VM 'notes.txt'"]);
}

#[test]
fn windows_have_a_compositor_or_not() {
    needs!(crate::namespace::mounts());
    let host = host();
    for name in ["alone", "shown", "stopped"] {
        host.vm(name).file("wayland", b"");
    }
    host.configure("[defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\n");
    let text = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, text.replace("/usr/bin/qemu-system", "/nonexistent/qemu-system")).unwrap();
    run(&mut host.sync());
    let unit = |name: &str, active: &str, sub: &str| {
        format!("Id=microvm@{name}.service\nActiveState={active}\nSubState={sub}\nStatusText=\n\n")
    };
    let says = ["alone", "shown"].map(|name| unit(name, "active", "running")).concat();
    let path = systemctl(&host, &format!("{says}{}", unit("stopped", "inactive", "dead")), 0);
    let mut call = list(&host, &path);
    call.arg("--json");
    let script = "mount -t tmpfs none /run && mkdir -p /run/microvm-spectrum-wayland/shown && \
        perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Listen => 1, Local => \
        \"/run/microvm-spectrum-wayland/shown/wayland.sock\"); exit system(@ARGV) >> 8' -- env \"$@\"";
    let path = OsString::from(format!("PATH={}", path.display()));
    let words = std::iter::once(path.as_os_str()).chain(crate::namespace::words(&call));
    let listed = run(&mut crate::namespace::shell(script, words)).exits(0).stdout;
    let list: Value = serde_json::from_str(&listed).unwrap();
    let of = |name: &str| {
        let vm = list["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap();
        (vm["windows"]["compositor"].clone(), vm["detail"].clone())
    };
    assert_eq!(of("shown"), (json!(true), json!("windows: shown")), "{list:#}");
    assert_eq!(of("alone"), (json!(false), json!("windows: for no user (wayland-user)")), "{list:#}");
    assert_eq!(of("stopped"), (Value::Null, Value::Null), "{list:#}");
}
