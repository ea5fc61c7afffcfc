// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the flake takes from Nixpkgs is said in one place, `docs/nix.md`, and is
//! what the stand-in has: what is not there cannot be evaluated here.

use std::collections::BTreeSet;
use std::fs;

use crate::real_nix::nix;
use crate::support::skip::needs;

#[test]
fn what_is_taken_from_nixpkgs_is_documented() {
    let nix = needs!(nix());
    let found: BTreeSet<String> =
        serde_json::from_value(nix.evaluate("builtins.attrNames pkgs").unwrap()).unwrap();
    let text = fs::read_to_string(nix.project().join("docs/nix.md")).unwrap();
    let section = text.split("## What it takes from Nixpkgs").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let named =
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned));
    assert_eq!(named.collect::<BTreeSet<_>>(), found);
}
