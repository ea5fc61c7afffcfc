// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Everything that microvm.nix's host module and its command `microvm` read of a
//! flake's `nixosConfigurations.<name>` (its `nixos-modules/host/default.nix` and
//! `pkgs/microvm-command.nix` of August 2026), in the way in which they do it.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// In the place of microvm.nix: its option, and nothing that follows from it.
const STUB: &str = "{ outputs = _: { nixosModules.host = { lib, ... }: \
    { options.microvm.vms = lib.mkOption { type = lib.types.raw; default = { }; }; }; }; }\n";

use crate::built::EXAMPLES;
use crate::real_nix::{done, nix};
use crate::support::skip::{needs, skipped};

#[test]
fn the_host_module_and_the_command_find_what_they_read() {
    let nix = needs!(nix());
    for name in EXAMPLES {
        let config = format!("nixosConfigurations.{name}.config");
        for (attribute, expected) in [("supportsNotifySocket", true), ("registerWithMachined", false)] {
            assert_eq!(
                nix.value(&format!("{config}.microvm.declaredRunner.{attribute}")),
                expected,
                "{name}"
            );
        }
        for share in nix.value(&format!("{config}.microvm.shares")).as_array().unwrap() {
            assert!(share["source"].as_str().unwrap().starts_with('/'), "{share}");
        }
        // microvm -u builds this, and -l compares the two.
        let runner = nix.build(&format!("{config}.microvm.declaredRunner"));
        assert_eq!(runner, nix.build(&format!("vm-{name}")));
        let toplevel = done(nix.flake(&["eval", "--raw"], &format!("#{config}.system.build.toplevel")));
        assert_eq!(fs::read_link(runner.join("share/microvm/system")).unwrap(), Path::new(&toplevel));
        assert!(Path::new(&toplevel).is_dir());
        for program in ["microvm-run", "microvm-shutdown"] {
            assert!(runner.join("bin").join(program).is_file(), "{name}: {program}");
        }
        for absent in ["microvm-register", "macvtap-up"] {
            assert!(!runner.join("bin").join(absent).exists(), "{name}: {absent}");
        }
    }
}

/// The flake that tests packages under microvm.nix itself. Here microvm.nix is
/// but its option, so the tests are evaluated as far as that goes.
#[test]
fn under_microvm_nix_itself() {
    let nix = needs!(nix());
    let stub = nix.work("microvm-nix");
    fs::write(stub.join("flake.nix"), STUB).unwrap();
    let mut command = nix.call("nix", ["eval", "--json", "--no-write-lock-file"]);
    // The project is its input by a relative path, as in a checkout.
    command.arg(format!("path:{}?dir=checks/nix/microvm-nix#checks.x86_64-linux", nix.project().display()));
    command.args(["--apply", "builtins.mapAttrs (_: check: check.skipped)"]);
    for (input, place) in [("nixpkgs", nix.nixpkgs()), ("microvm", stub)] {
        command.args(["--override-input", input]).arg(format!("path:{}", place.display()));
    }
    let checks: Value = serde_json::from_str(&done(command)).unwrap();
    let checks = checks.as_object().unwrap();
    assert_eq!(checks.len(), 2, "{checks:?}");
    for what in checks.values() {
        skipped(
            what.as_str().unwrap(),
            "it was evaluated, and takes microvm.nix, NixOS and KVM: see docs/nix.md",
        );
    }
}
