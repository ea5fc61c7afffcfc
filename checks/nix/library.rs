// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `lib.mkRunner` and `lib.mkRunners`, evaluated: what they give and what they refuse.

use std::collections::BTreeMap;

use serde_json::json;

use crate::real_nix::{Nix, nix};
use crate::support::skip::needs;
use crate::support::vm_directory::VmDirectory;

fn tests(nix: &Nix, file: &str) -> String {
    format!("(import {}/checks/nix/library/{file} {{ inherit library pkgs; }})", nix.project().display())
}

#[test]
fn what_it_gives() {
    let nix = needs!(nix());
    let cases = nix.evaluate(&tests(nix, "cases.nix")).unwrap();
    let cases = cases.as_object().unwrap();
    assert!(cases.len() > 15, "only {} cases", cases.len());
    for (name, case) in cases {
        assert_eq!(case["expected"], case["actual"], "{name}");
    }
}

/// Every error that can be thrown has its message, in one line.
#[test]
fn what_it_refuses() {
    let nix = needs!(nix());
    let errors = tests(nix, "errors.nix");
    let messages = nix.evaluate(&format!("builtins.mapAttrs (_: error: error.message) {errors}")).unwrap();
    let messages: BTreeMap<String, String> = serde_json::from_value(messages).unwrap();
    assert!(messages.len() > 20, "only {} errors", messages.len());
    for (name, message) in messages {
        let said = nix.evaluate(&format!("{errors}.{name}.value")).expect_err(&name);
        assert!(
            said.contains("error: microvm-spectrum: ") && said.contains(&message),
            "{name}: {message}\n{said}"
        );
    }
}

/// A folder may hold what is no VM directory, and a name that no VM can have is reported.
#[test]
fn a_folder_of_vm_directories() {
    let nix = needs!(nix());
    let folder = nix.work("folder");
    for name in ["netvm", "app"] {
        let _ = VmDirectory::at(&folder.join(name));
    }
    std::fs::write(folder.join("README"), "").unwrap();
    let names = || {
        let folder = folder.display();
        nix.evaluate(&format!(
            "builtins.attrNames (library.mkRunners {{ inherit pkgs; dir = {folder}; }}).runners"
        ))
    };
    assert_eq!(names().unwrap(), json!(["app", "netvm"]));
    let _ = VmDirectory::at(&folder.join("a b"));
    let _ = VmDirectory::at(&folder.join("-c"));
    let said = names().unwrap_err();
    for bad in ["cannot be \"a b\"", "cannot be \"-c\"", "2 problems", folder.to_str().unwrap()] {
        assert!(said.contains(bad), "{bad} is not in:\n{said}");
    }
}
