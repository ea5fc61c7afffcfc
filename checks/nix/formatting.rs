// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `checks/format-nix` finds what it is there to find, each by itself.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::real_nix::copy;

const HEADER: &str = "# SPDX-License-Identifier: EUPL-1.2\n";

/// Runs it in a copy of the project's Nix files with one more, of this text.
fn format_nix(text: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["checks/format-nix", "checks/support", "checks/nix", "flake.nix", "nix", "templates"] {
        let to = directory.path().join(part);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy(&project.join(part), &to);
    }
    fs::write(directory.path().join("nix/more.nix"), format!("{HEADER}{text}")).unwrap();
    let mut command = Command::new(directory.path().join("checks/format-nix"));
    let output = command.env("CARGO_TERM_COLOR", "never").output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn every_kind_of_bad_file_is_found() {
    let (fine, said) = format_nix("{ a = 1; }\n");
    assert!(fine, "{said}");
    for (text, expected) in [
        // deadnix alone would pass over it.
        ("{ a = 1 }\n", "syntax error"),
        ("{ unused }: { a = 1; }\n", "Unused lambda pattern"),
        ("{a=1;}\n", "format-nix --write"),
    ] {
        let (fine, said) = format_nix(text);
        assert!(!fine && said.contains(expected), "{text}{said}");
    }
}
