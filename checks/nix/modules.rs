// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The NixOS module, evaluated: what it defines and what it refuses, against
//! the stand-in's `lib` and, when `NIXPKGS_LIB` names one, against another.
//! What it says twice, in Nix and in Rust or in files, is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use microvm_spectrum::config::{Config, DEFAULT_UIDS, Refused};
use microvm_spectrum::host::units::{self, UnitPaths};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The `lib`s to test against; the empty one is the stand-in's.
pub fn libs() -> Vec<String> {
    let other = std::env::var("NIXPKGS_LIB").ok().filter(|path| !path.is_empty());
    let find = |path: String| {
        let path = fs::canonicalize(&path).unwrap_or_else(|error| panic!("NIXPKGS_LIB: {path}: {error}"));
        let lib = if path.join("lib").is_dir() { path.join("lib") } else { path };
        lib.into_os_string().into_string().unwrap()
    };
    [String::new()].into_iter().chain(other.map(find)).collect()
}

/// Evaluates an attribute of `checks/nix/modules`: its JSON, or what Nix says.
fn evaluate(lib: &str, attribute: &str) -> Result<Value, String> {
    let output = crate::nix_command("nix-instantiate")
        .args(["--eval", "--strict", "--json", "--argstr", "libPath", lib, "--attr", attribute])
        .arg(project("checks/nix/modules"))
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn value<T: DeserializeOwned>(lib: &str, attribute: &str) -> T {
    let json =
        evaluate(lib, attribute).unwrap_or_else(|error| panic!("{attribute} with lib '{lib}': {error}"));
    serde_json::from_value(json).unwrap()
}

#[test]
fn what_the_module_defines_and_refuses() {
    #[derive(Deserialize)]
    struct Case {
        expected: Value,
        actual: Value,
    }
    for lib in libs() {
        let cases: BTreeMap<String, Case> = value(&lib, "tests");
        assert!(cases.len() > 50, "only {} tests", cases.len());
        let failed: Vec<_> = cases
            .iter()
            .filter(|(_, case)| case.expected != case.actual)
            .map(|(name, case)| format!("{name}\n  expected {}\n  actual   {}", case.expected, case.actual))
            .collect();
        assert!(failed.is_empty(), "with lib '{lib}':\n{}", failed.join("\n"));
    }
}

/// Nothing is taken from the stand-in that Nixpkgs does not have.
#[test]
fn the_stand_in_has_nothing_of_its_own() {
    for lib in libs() {
        let names: Vec<String> = value(&lib, "ofTheStandInAlone");
        assert!(names.is_empty(), "lib '{lib}' does not have {names:?}");
    }
}

#[test]
fn what_is_an_error_of_nix_itself() {
    for lib in libs() {
        let messages: BTreeMap<String, String> = value(&lib, "errorMessages");
        assert!(messages.len() > 8, "only {} errors", messages.len());
        for (name, message) in messages {
            let told = evaluate(&lib, &format!("errors.{name}.value"))
                .expect_err(&format!("{name} with lib '{lib}' has a value"));
            assert!(
                told.contains(&message),
                "{name} with lib '{lib}'\n  expected {message}\n  actual   {told}"
            );
        }
    }
}

/// What evaluation leaves to the program, which a derivation calls (`built::a_refused_configuration`).
#[test]
fn what_the_program_refuses_in_a_configuration() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        says: String,
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    for lib in libs() {
        let cases: BTreeMap<String, Case> = value(&lib, "refusedByTheProgram");
        assert!(cases.len() > 20, "only {} configurations", cases.len());
        for (name, Case { text, says }) in cases {
            fs::write(&path, &text).unwrap();
            let problems: Vec<_> = match Config::check(&path) {
                Ok(()) => panic!("{name}: the program takes\n{text}"),
                Err(Refused(problems)) => problems.into_sorted().iter().map(ToString::to_string).collect(),
            };
            assert!(problems.len() == 1 && problems[0].contains(&says), "{name}: {says}\n{problems:?}");
        }
    }
}

/// Asserts that the file `path` of the project holds `text`, or writes it there.
fn assert_generated(path: &str, text: &str) {
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(project(path), text).unwrap();
    }
    let found = fs::read_to_string(project(path)).unwrap_or_default();
    assert!(found == text, "{path} is out of date: UPDATE_DOCUMENTS=1 cargo test --test nix");
}

#[test]
fn the_options_reference() {
    for lib in libs() {
        assert_generated("docs/nixos-options.md", &value::<String>(&lib, "reference"));
    }
}

#[test]
fn the_configuration_of_a_rich_host_is_one() {
    let golden = "checks/nix/modules/golden/config.toml";
    for lib in libs() {
        assert_generated(golden, &value::<String>(&lib, "rich"));
    }
    let config = Config::read(&project(golden)).map_err(|refused| format!("{refused:?}")).unwrap();
    assert_eq!(config.sources.len(), 2);
    assert_eq!((config.uids.first, config.uids.last), (71_000, *DEFAULT_UIDS.end()));
    let lynx = config.settings(&"user/appvm-lynx".parse().unwrap());
    assert_eq!((lynx.vcpus, lynx.memory, lynx.link_ports), (Some(2), Some(512), Some(4)));
    let links: Vec<_> = config.declared_links().map(|(client, _, id)| format!("{client} {id}")).collect();
    assert_eq!(links, ["user/appvm-lynx a546"]);
    let uids: Vec<_> = config.declared_uids().map(|(vm, uid)| format!("{vm} {uid}")).collect();
    assert_eq!(uids, ["configuration/netvm 70002", "user/appvm-lynx 70001"]);
    let runners: Vec<_> = config.runners().map(|(vm, _)| vm.to_string()).collect();
    assert_eq!(runners, ["configuration/appvm-hello", "configuration/elsewhere", "configuration/netvm"]);
}

/// What the configuration on a page comes to.
fn documented(page: &str) -> Value {
    let page = fs::read_to_string(project(page)).unwrap();
    let blocks = page.split("```nix\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let example = blocks.into_iter().find(|block| block.starts_with("# configuration.nix\n")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("configuration.nix");
    fs::write(&file, example).unwrap();
    let documented = crate::nix_command("nix-instantiate")
        .args(["--eval", "--strict", "--json", "--arg", "configuration"])
        .arg(&file)
        .arg(project("checks/nix/modules/documented-example.nix"))
        .output()
        .unwrap();
    assert!(documented.status.success(), "{}", String::from_utf8_lossy(&documented.stderr));
    serde_json::from_slice(&documented.stdout).unwrap()
}

/// The configurations in the documentation are ones, and nothing is wrong with them.
#[test]
fn the_documented_configurations() {
    let expected = serde_json::json!({
        "messages": [],
        "vms": ["appvm-hello", "netvm", "user/appvm-lynx"],
        "sources": ["user"],
        "hosts": [],
    });
    assert_eq!(documented("docs/nixos.md"), expected);
    let expected = serde_json::json!({
        "messages": [],
        "vms": ["netvm"],
        "sources": [],
        "hosts": ["host1", "host2", "host3"],
    });
    assert_eq!(documented("docs/cluster.md"), expected);
}

#[test]
fn the_range_of_user_ids_is_the_programs() {
    let uids: BTreeMap<String, u32> = value("", "uids");
    assert_eq!((uids["first"], uids["last"]), (*DEFAULT_UIDS.start(), *DEFAULT_UIDS.end()));
}

/// What `microvm-spectrum units` writes.
fn shipped() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let paths = UnitPaths::new(Path::new("/bin/microvm-spectrum"), Path::new("/var/lib/microvms")).unwrap();
    units::write(&paths, directory.path()).unwrap();
    directory
}

/// The files that NixOS takes from a package by itself are in these directories,
/// and sysusers.d is said in options; the others are named by the module.
#[test]
fn nixos_takes_every_file_of_the_program() {
    let named: BTreeSet<String> = value("", "files");
    let taken = [
        "systemd/system",
        "systemd/system-generators",
        "systemd/user",
        "udev/rules.d",
        "tmpfiles.d",
        "sysusers.d",
        // By way of the running system (modules/cluster.nix).
        "ocf/resource.d/microvm-spectrum",
    ];
    let directory = shipped();
    let mut left = vec![directory.path().to_owned()];
    let mut others = BTreeSet::new();
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            let path = entry.strip_prefix(directory.path()).unwrap();
            if entry.is_dir() {
                left.push(entry);
            } else if !taken.iter().any(|taken| path.parent() == Some(Path::new(taken))) {
                others.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(named, others);
}

/// The units of the program, with the targets that their `[Install]` names.
fn shipped_units() -> BTreeMap<String, Vec<String>> {
    let directory = shipped();
    let files = fs::read_dir(directory.path().join("systemd/system")).unwrap().map(|file| file.unwrap());
    files
        .map(|file| {
            let text = fs::read_to_string(file.path()).unwrap();
            let wanted_by = text.lines().filter_map(|line| line.strip_prefix("WantedBy="));
            let targets = wanted_by.flat_map(str::split_whitespace).map(str::to_owned).collect();
            (file.file_name().into_string().unwrap(), targets)
        })
        .collect()
}

#[test]
fn nixos_takes_every_unit_of_the_program() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Unit {
        wanted_by: Vec<String>,
    }
    let left_alone: BTreeSet<String> = value("", "leftAlone");
    let kinds: BTreeMap<String, BTreeMap<String, Unit>> = value("", "units");
    let defined: BTreeMap<_, _> = kinds
        .iter()
        .flat_map(|(kind, units)| {
            let suffix = kind.strip_suffix('s').unwrap();
            units.iter().map(move |(name, unit)| (format!("{name}.{suffix}"), unit))
        })
        .collect();
    let shipped = shipped_units();
    assert!(shipped.len() >= 7, "{shipped:?}");
    for (name, wanted_by) in &shipped {
        let unit = defined.get(name);
        assert_eq!(unit.map(|unit| unit.wanted_by.as_slice()).unwrap_or_default(), wanted_by, "{name}");
        assert_eq!(left_alone.contains(name), name.ends_with("@.service"), "a rebuild and {name}");
    }
    for name in defined.keys() {
        assert!(shipped.contains_key(name), "the module defines {name}, which the program does not have");
    }
}
