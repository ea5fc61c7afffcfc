// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `lib.mkRunner` and `lib.mkRunners`, evaluated: what they give and what they
//! refuse, and that link ids are those of the program.

use std::collections::{BTreeMap, BTreeSet};

use microvm_spectrum::base::name::VmName;
use microvm_spectrum::link::id::LinkId;
use serde_json::{Value, json};

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

#[test]
fn link_ids_are_those_of_the_program() {
    let nix = needs!(nix());
    let longest = "x".repeat(64);
    let mut pairs: Vec<(String, String)> =
        (0..300).map(|n| (format!("appvm-{n}"), format!("netvm.{}", n % 7))).collect();
    pairs.push((longest, "_".to_owned()));
    // Their hashes begin with 0000 and ffff, which are not used.
    let reserved = ["app112093", "app21947"];
    pairs.extend(reserved.map(|client| (client.to_owned(), "netvm".to_owned())));
    let text = json!(pairs).to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let found = nix.evaluate(&format!(
        "map (pair: with library.linkIds; let client = builtins.elemAt pair 0; provider = builtins.elemAt pair 1; \
         in link client provider (derive client provider)) (builtins.fromJSON \"{text}\")"
    ));
    let found: Vec<Value> = serde_json::from_value(found.unwrap()).unwrap();
    assert_eq!(found.len(), pairs.len());
    for ((client, provider), found) in pairs.iter().zip(found) {
        let name = |text: &str| VmName::new(text).unwrap();
        let id = LinkId::derive(&name(client), &name(provider), &BTreeSet::new()).unwrap();
        if reserved.contains(&client.as_str()) {
            assert_eq!(id.to_string(), "0001");
        }
        let expected = json!({
            "client": client,
            "provider": provider,
            "id": id.to_string(),
            "clientMac": id.client_mac().to_string(),
            "providerMac": id.provider_mac().to_string(),
            "clientIpv4": id.client_ipv4().to_string(),
            "clientTap": id.client_tap(),
            "providerTap": id.provider_tap(),
            "bridge": id.bridge(),
        });
        assert_eq!(found, expected);
    }
}

/// The rule of names is written twice.
#[test]
fn names_are_those_of_the_program() {
    let nix = needs!(nix());
    let longest = "a".repeat(64);
    let too_long = "a".repeat(65);
    let names = [
        "a",
        "_",
        "9.-_Z",
        longest.as_str(),
        &too_long,
        "",
        ".a",
        "-a",
        "a b",
        "a/b",
        "ü",
        "a%",
        "a:b",
        "a+",
        "a\nb",
    ];
    let text = json!(names).to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let rule = format!("(import {}/nix/lib/names.nix).isName", nix.project().display());
    let found = nix.evaluate(&format!("map {rule} (builtins.fromJSON \"{text}\")")).unwrap();
    let expected: Vec<_> = names.iter().map(|name| VmName::new(name).is_ok()).collect();
    assert_eq!(found, json!(expected));
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
