// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The flake as a whole: what it has, what it checks, and its lock.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::real_nix::{done, nix};
use crate::support::skip::{needs, skipped};

const SYSTEMS: [&str; 2] = ["aarch64-linux", "x86_64-linux"];

fn names(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{value} has no attributes"))
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn it_has_what_users_of_flakes_expect() {
    let nix = needs!(nix());
    let shown: Value =
        serde_json::from_str(&done(nix.flake(&["flake", "show", "--json", "--all-systems"], ""))).unwrap();
    for output in ["apps", "checks", "devShells", "formatter", "packages"] {
        assert_eq!(names(&shown[output]), SYSTEMS, "{output}");
    }
    for system in SYSTEMS {
        let packages = [
            "default",
            "microvm-spectrum",
            "vm-appvm-hello",
            "vm-appvm-online",
            "vm-appvm-windows",
            "vm-netvm",
        ];
        assert_eq!(names(&shown["packages"][system]), packages);
        for package in packages {
            assert_eq!(shown["packages"][system][package]["type"], "derivation", "{package}");
        }
        assert_eq!(shown["apps"][system]["demo"]["type"], "app");
        assert_eq!(names(&shown["devShells"][system]), ["default"]);
        assert_eq!(shown["formatter"][system]["type"], "derivation");
        let checks: BTreeSet<_> = names(&shown["checks"][system]).into_iter().collect();
        assert!(
            checks.is_superset(&BTreeSet::from(["crate", "format", "golden", "library", "lints", "module"])),
            "{checks:?}"
        );
    }
    assert_eq!(names(&shown["nixosModules"]), ["default", "host"]);
    assert_eq!(
        names(&shown["nixosConfigurations"]),
        ["appvm-hello", "appvm-online", "appvm-windows", "netvm"]
    );
    assert_eq!(shown["overlays"]["default"]["type"], "nixpkgs-overlay");
    assert_eq!(shown["templates"]["default"]["type"], "template");
    assert_eq!(
        nix.evaluate("builtins.attrNames library").unwrap(),
        serde_json::json!([
            "guestKernel",
            "linkIds",
            "mkRootImage",
            "mkRunner",
            "mkRunners",
            "mkVmDirectory"
        ])
    );
}

/// Everything that the flake checks is evaluated for all systems, and built for this one.
#[test]
fn nix_flake_check() {
    let nix = needs!(nix());
    done(nix.flake(&["flake", "check", "--all-systems", "--no-build"], ""));
    done(nix.flake(&["flake", "check", "--print-build-logs"], ""));
    let by_name = ["--apply", "builtins.mapAttrs (_: check: check.skipped or null)"];
    let checks = done({
        let mut command = nix.flake(&["eval", "--json"], "#checks.x86_64-linux");
        command.args(by_name);
        command
    });
    let checks: Value = serde_json::from_str(&checks).unwrap();
    let mut vm_tests = 0;
    for name in names(&checks) {
        if let Some(what) = checks[name].as_str() {
            skipped(
                what,
                "it was evaluated, and takes NixOS and KVM: nix flake check on such a machine runs it",
            );
            vm_tests += 1;
        }
    }
    assert_eq!(vm_tests, names(&checks).iter().filter(|name| name.starts_with("vm-test-")).count());
    assert!(vm_tests >= 2, "{vm_tests} tests of machines");
}

/// With another in its place, the pinned Nixpkgs stays what the lock names.
#[test]
fn the_lock_is_pinned_and_left_alone() {
    let nix = needs!(nix());
    let text = fs::read_to_string(nix.project().join("flake.lock")).unwrap();
    let lock: Value = serde_json::from_str(&text).unwrap();
    let nixpkgs = &lock["nodes"]["nixpkgs"]["locked"];
    assert_eq!(nixpkgs["rev"], "643809054d65fdd466a63e3155b8c498cb483c04");
    assert_eq!(nixpkgs["narHash"], "sha256-vUfIeBEfpbAfZ5zjgIkYk7eHBeVfCYVjLbWnMkseYnk=");
    assert_eq!(names(&lock["nodes"]), ["nixpkgs", "root"], "users get no other input");
    done(nix.flake(&["flake", "metadata", "--json"], ""));
    assert_eq!(fs::read_to_string(nix.project().join("flake.lock")).unwrap(), text);
}

#[test]
fn the_overlay_and_the_packages_are_one() {
    let nix = needs!(nix());
    let text = "let final = pkgs // { callPackage = file: _: { inherit file; }; }; in (import PROJECT/nix/overlay.nix final pkgs).microvm-spectrum.file";
    let text = text.replace("PROJECT", nix.project().to_str().unwrap());
    let file = nix.evaluate(&format!("toString ({text})")).unwrap();
    assert_eq!(file, nix.project().join("nix/package.nix").to_str().unwrap());
}

#[test]
fn the_template_is_found() {
    let nix = needs!(nix());
    let directory = nix.work("new").join("flake");
    let template = format!("path:{}#default", nix.project().display());
    done({
        let mut command = nix.call("nix", ["flake", "new", "--template", &template]);
        command.arg(&directory);
        command
    });
    assert!(directory.join("flake.nix").is_file());
}
