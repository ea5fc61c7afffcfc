// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `status`: everything about one VM, with stand-ins for systemd's programs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::run;
use crate::sync_host::{Host, host, script};

/// A directory for PATH, with a systemctl and a journalctl that print these.
fn stand_ins(host: &Host, systemctl: &str, journalctl: &str) -> PathBuf {
    let bin = host.root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for (program, says) in [("systemctl", systemctl), ("journalctl", journalctl)] {
        let called = bin.join(program.to_owned() + "-called");
        script(&bin.join(program), &format!("echo \"$*\" >'{}'\nprintf '{says}'\n", called.display()));
    }
    bin
}

fn status(host: &Host, bin: &PathBuf, arguments: &[&str]) -> Command {
    let mut command = host.call(&["status"]);
    command.args(arguments).env("PATH", bin);
    command
}

/// A host with a VM that has everything, and its provider.
fn with_a_vm() -> Host {
    let host = host();
    fs::create_dir(host.partition.root.join("home")).unwrap();
    host.vm("netvm");
    drop(host.vm("app").provider("netvm").share("home", "/ext/home"));
    host.configure_sources(
        &[("user", &host.partition.root)],
        "[vm.'user/app']\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 320\nvcpus = 2\nautostart = true\n",
    );
    host.synced();
    host
}

const RUNNING: &str = "Id=microvm@app.service\\nActiveState=active\\nSubState=running\\nStatusText=\\n\
                       StateChangeTimestamp=@1000000000\\nMemoryCurrent=104857600\\nCPUUsageNSec=61000000000\\n";

#[test]
fn a_running_vm() {
    let host = with_a_vm();
    let bin = stand_ins(&host, RUNNING, "one\\r\\n\\033[1mtwo\\033[0m\\tx\\n\\033]0;t\\007\\n");
    let ipv4 = host.in_catalog("user/app")["links"][0]["ipv4"].as_str().unwrap().to_owned();
    let id = host.in_catalog("user/app")["links"][0]["id"].as_str().unwrap().to_owned();
    let directory = host.partition.root.join("svc/data/app");
    let (uid, home) = (host.uid("user/app"), host.partition.root.join("home"));
    let image = fs::canonicalize(directory.join("blk")).unwrap();

    let said = run(&mut status(&host, &bin, &["app"])).exits(0).stdout;
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("app: running for ") && lines[0].contains(" d"), "{said}");
    let image_line = lines.iter().find(|line| line.starts_with("  image ")).unwrap();
    assert!(image_line.contains(": ") && image_line.contains(image.to_str().unwrap()), "{said}");
    let rest: Vec<_> = lines[1..].iter().filter(|line| *line != image_line).copied().collect();
    let expected = [
        format!("  source      user: {}", directory.display()),
        "  hypervisor  qemu, without KVM (slow)".to_owned(),
        "  memory      320 MiB for the guest, 100 MiB used".to_owned(),
        "  processor   2 processors, 1 min 1 s used".to_owned(),
        format!("  user id     {uid}"),
        "  autostart   with the host".to_owned(),
        format!("  address     {ipv4} from netvm (link {id})"),
        format!("  share       home: {}", home.display()),
        "The last lines of its serial console:".to_owned(),
        "  one".to_owned(),
        "  two    x".to_owned(),
        "  \\u{1b}]0;t\\u{7}".to_owned(),
    ];
    assert_eq!(rest, expected);
    // Only this VM's units are asked about, and only its guest's words.
    let asked = fs::read_to_string(bin.join("systemctl-called")).unwrap();
    assert!(asked.contains(" microvm@app.service ") && !asked.contains('*'), "{asked}");
    let asked = fs::read_to_string(bin.join("journalctl-called")).unwrap();
    assert!(asked.contains("--identifier=microvm@app ") && asked.contains("--lines=10"), "{asked}");

    let printed = run(&mut status(&host, &bin, &["app", "--json"])).exits(0).stdout;
    let mut found: Value = serde_json::from_str(&printed).unwrap();
    let mac = found["links"][0]["mac"].take();
    assert!(mac.as_str().unwrap().ends_with(&format!("{}:{}", &id[..2], &id[2..]).to_uppercase()), "{mac}");
    assert!(found["images"][0].take()["path"].as_str().unwrap().starts_with(image.to_str().unwrap()));
    assert_eq!(
        found,
        json!({
            "version": 1, "name": "app", "state": "running", "detail": null, "stale": [],
            "hypervisor": "qemu", "source": "user", "addresses": [ipv4], "uid": uid, "autostart": true,
            "directory": directory, "problems": [], "failed_unit": null, "since": 1_000_000_000,
            "memory_used": 104_857_600, "cpu_used_ns": 61_000_000_000_u64, "accelerator": "tcg",
            "memory_mib": 320, "vcpus": 2,
            "links": [{"provider": "netvm", "id": id, "ipv4": ipv4, "mac": null}],
            "shares": [{"tag": "home", "directory": home}], "images": [null], "pci_devices": [],
            "log": ["one", "two    x", "\\u{1b}]0;t\\u{7}"],
        })
    );
}

#[test]
fn a_vm_that_does_not_run() {
    let host = with_a_vm();
    let says = "Id=microvm@app.service\\nActiveState=inactive\\nStatusText=the guest powered off\\n\
                MemoryCurrent=[not set]\\nCPUUsageNSec=18446744073709551615\\n\\n\
                Id=microvm-tap-interfaces@app.service\\nActiveState=failed\\nStatusText=no nft\\n";
    let bin = stand_ins(&host, says, "");
    let said = run(&mut status(&host, &bin, &["app"])).exits(0).stdout;
    let why = "microvm-tap-interfaces@app.service: no nft";
    assert!(said.starts_with(&format!("app: failed: {why}\n")), "{said}");
    assert!(!said.contains("used") && !said.contains("serial"), "{said}");
    let printed = run(&mut status(&host, &bin, &["app", "--json"])).exits(0).stdout;
    let found: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&found["failed_unit"], &found["detail"]), (&json!(&why[..34]), &json!(why)));
    // Without systemd, all else is there.
    let none = host.root.join("none");
    let said = run(&mut status(&host, &none, &["app"])).exits(0).stdout;
    assert!(said.starts_with("app: unknown\n") && said.contains("320 MiB for the guest\n"), "{said}");

    // What is wrong with its directory comes with its remedy.
    let entry = host.partition.root.join("svc/data/app/providers/net/nobody");
    fs::write(&entry, "").unwrap();
    run(&mut host.sync()).exits(1);
    let bin = stand_ins(&host, "Id=microvm@app.service\\nActiveState=inactive\\n", "");
    let said = run(&mut status(&host, &bin, &["app"])).exits(0).stdout;
    let state = host.in_catalog("user/app")["state"].as_str().unwrap().to_owned();
    assert!(said.starts_with(&format!("app: {state}\n")), "{said}");
    assert!(said.contains("nobody") && said.contains("\n  help: "), "{said}");
    run(&mut status(&host, &bin, &["ap"])).exits(1).complains(&["there is no VM 'ap'; did you mean app?"]);
}
