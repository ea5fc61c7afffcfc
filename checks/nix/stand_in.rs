// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What Nixpkgs would refuse, its stand-in refuses, too; docs/nix.md says what was compared with what.

use crate::real_nix::nix;
use crate::support::skip::needs;

#[test]
fn what_nixpkgs_refuses() {
    let nix = needs!(nix());
    let derivation = |attributes: &str| format!("(pkgs.stdenv.mkDerivation {{ {attributes} }}).drvPath");
    let rust = |attributes: &str| {
        format!(
            "(pkgs.rustPlatform.buildRustPackage {{ pname = \"microvm-spectrum\"; version = \"1\"; {attributes} }}).drvPath"
        )
    };
    let test = |attributes: &str| format!("(pkgs.testers.runNixOSTest {{ {attributes} }}).drvPath");
    for (expression, refusal) in [
        (derivation("pname = \"a\";"), "neither a name nor pname and version"),
        (derivation("name = \"a\"; nativeBuildInputs = [ { } ];"), "Dependency is not of a valid type"),
        (derivation("name = \"a\"; hardeningDisable = [ \"everything\" ];"), "unsupported hardening flag"),
        (derivation("name = \"a\"; env.list = [ ];"), "env.list is no string"),
        (derivation("name = \"a\"; env.a = \"\"; a = \"\";"), "env.a is an attribute of the derivation"),
        (derivation("name = \"a\"; meta.licence = { };"), "meta.licence is unknown"),
        (derivation("name = \"a\"; meta.description = 5;"), "meta.description is of another type"),
        (
            derivation("name = \"a\"; meta.platforms = [ \"riscv64-linux\" ];"),
            "not available on the requested",
        ),
        (rust("src = ./.;"), "cargoLock must be set"),
        (rust("cargoLock.file = 1;"), "cargoLock.file is unknown"),
        (test("name = \"a\"; nodes = { }; testscript = \"\";"), "`testscript' does not exist"),
        (test("nodes = { }; testScript = \"\";"), "`name' was accessed"),
        ("pkgs.writeText \"a\" 5".to_owned(), "should be a string, but it's a int"),
        (
            "(pkgs.closureInfo { paths = [ ]; }).drvPath".to_owned(),
            "called without required argument 'rootPaths'",
        ),
        ("pkgs.formats.toml { indent = 2; }".to_owned(), "called with unexpected argument 'indent'"),
        ("((pkgs.formats.toml { }).generate \"a\" { a = null; }).drvPath".to_owned(), "TOML has no null"),
        ("(pkgs.mkShell { packages = [ { } ]; }).drvPath".to_owned(), "Dependency is not of a valid type"),
        (
            "pkgs.callPackage ({ no-such-package }: no-such-package) { }".to_owned(),
            "required argument 'no-such-package'",
        ),
        ("pkgs.writeShellApplication { name = \"a\"; script = \"\"; }".to_owned(), "called with"),
    ] {
        let said = nix.evaluate(&expression).expect_err(&expression);
        assert!(said.contains(refusal), "{expression}: {refusal} is not in\n{said}");
    }
}
