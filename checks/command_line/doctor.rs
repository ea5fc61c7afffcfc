// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `doctor`, as far as it does not depend on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::program::run;
use crate::sync_host::host;

#[test]
fn what_the_configuration_says_is_examined() {
    let host = host();
    for name in ["a", "b"] {
        host.vm(name);
    }
    let configure = |last: u32| {
        let sources = crate::sync_host::source("user", &host.partition.root);
        let uids = format!("[uids]\nfirst = 70000\nlast = {last}\n");
        let tools = "[tools]\nnft = \"/nowhere/n\\u001bft\"\n";
        let old = host.config.with_file_name("old");
        fs::write(&old, "#!/bin/sh\necho virtiofsd 1.12.9\n").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
        let tools = format!("{tools}virtiofsd = \"{}\"\n", old.display());
        fs::write(&host.config, format!("{sources}{uids}{tools}")).unwrap();
    };
    let doctor = || {
        let mut command = host.call(&["doctor", "--config", host.config.to_str().unwrap()]);
        command.env("PATH", "/nowhere");
        run(&mut command).exits(3).stdout
    };
    host.synced();
    configure(70_500);
    let said = doctor();
    for text in [
        "error: /nowhere/n\\u{1b}ft: does not exist\n  help: install it (package nftables ",
        "old: has version 1.12, and VMs need 1.13 or later\n  help: install it (package virtiofsd ",
        "error: ip: is not in PATH\n  help: install it (package iproute2 ",
        "error: cloud-hypervisor: is not in PATH\n  help: ",
        ": no VM can have qemu\n  help: install it (",
    ] {
        assert!(said.contains(text), "{text:?} is not in {said}");
    }
    // The two VMs have the first ids.
    for (last, finding) in [(70_001, "error: CONFIG: 0 of "), (70_003, "note: CONFIG: 2 of "), (70_500, "")] {
        configure(last);
        let said = doctor();
        let found = said.lines().find(|line| line.contains(" of the user ids ")).unwrap_or_default();
        let expected = finding.replace("CONFIG", host.config.to_str().unwrap());
        assert!(found.starts_with(&expected) && found.is_empty() == finding.is_empty(), "{last}: {said}");
    }
    // A configuration that is wrong is a finding, and the rest is examined as well.
    fs::write(&host.config, "[uids]\nfirst = 'x'\n").unwrap();
    let said = doctor();
    assert!(said.contains(host.config.to_str().unwrap()) && said.contains("error: nft: "), "{said}");
}
