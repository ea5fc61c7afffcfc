// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A host whose packages go into its Nix store, by the unit of `sync` and its sandbox.

use std::fs;
use std::path::PathBuf;

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// Where Nix's programs are.
fn nix() -> Result<PathBuf, &'static str> {
    let directory = std::env::var_os("MICROVM_SPECTRUM_TEST_NIX").map(PathBuf::from);
    directory.ok_or("there is no Nix: run `make check`, or `checks/with-nix cargo test`")
}

/// Syncs by the unit.
#[track_caller]
fn sync(host: &Host) {
    host.ok(&["systemctl", "restart", "microvm-spectrum-sync.service"]);
}

/// The package of a VM, which is in the store.
#[track_caller]
fn package(host: &Host, name: &str) -> String {
    let path = host.ok(&["readlink", "-f", &format!("/var/lib/microvms/{name}/current")]);
    assert!(path.starts_with("/nix/store/"), "{path}");
    path
}

#[test]
fn the_unit_of_sync_puts_packages_into_the_store_and_mends_them() {
    needs!(is_possible());
    let nix = needs!(nix());
    let host = Host::new();
    // A store of its own.
    host.machine.mkdir("/nix");
    host.ok(&["mount", "-t", "tmpfs", "-o", "mode=755", "nix", "/nix"]);
    for directory in ["/nix/store", "/nix/var/nix/gcroots", "/nix/var/nix/profiles/default/bin"] {
        host.machine.mkdir(directory);
    }
    let nix_store = nix.join("nix-store").display().to_string();
    host.ok(&["ln", "-s", &nix_store, "/nix/var/nix/profiles/default/bin/nix-store"]);
    let settings = "build-users-group =\nsubstituters =\nsandbox = false\n";
    host.machine.write("/etc/nix/nix.conf", settings);
    let config = "/etc/microvm-spectrum/config.toml";
    host.machine.write(config, &format!("nix-store = true\n{}", host.machine.read(config)));

    // Without a daemon, sync's own process writes to the store.
    host.vm("appvm");
    sync(&host);
    let first = package(&host, "appvm");
    host.start("appvm");
    host.run(&["stop", "appvm"]).exits(0);

    // With one, and a store that is read-only for all others, as on NixOS.
    let daemon = nix.join("nix-daemon").display().to_string();
    host.ok(&["systemd-run", "--quiet", "--unit=nix-daemon", &daemon]);
    wait_for("the daemon", || host.machine.path("/nix/var/nix/daemon-socket/socket").exists().then_some(()));
    host.ok(&["mount", "--bind", "/nix/store", "/nix/store"]);
    host.ok(&["mount", "-o", "remount,bind,ro", "/nix/store"]);
    host.vm("other");
    sync(&host);
    assert_ne!(package(&host, "other"), first);
    for (part, text) in [("bin/microvm-run", ""), ("share/microvm-spectrum/manifest.json", "{}")] {
        host.ok(&["mount", "-o", "remount,bind,rw", "/nix/store"]);
        let path = host.machine.path(&format!("{first}/{part}"));
        let whole = fs::read(&path).unwrap();
        host.ok(&["chmod", "u+w", &format!("{first}/{part}")]);
        fs::write(&path, text).unwrap();
        host.ok(&["mount", "-o", "remount,bind,ro", "/nix/store"]);
        sync(&host);
        assert_eq!(fs::read(&path).unwrap(), whole, "{part}");
    }
    assert_eq!(package(&host, "appvm"), first);
    host.start("appvm");
}
