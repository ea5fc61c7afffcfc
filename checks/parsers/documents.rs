// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Documents: what is read and written again is the same, and what they decide
//! is what may be decided.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use microvm_spectrum::base::name::VmId;
use microvm_spectrum::base::versioned;
use microvm_spectrum::config::{Config, may_be_a_vms};
use microvm_spectrum::directory::declared::Declaration;
use microvm_spectrum::host::units::generate;
use microvm_spectrum::hypervisor;
use microvm_spectrum::hypervisor::description::FilePaths;
use microvm_spectrum::package::Package;
use microvm_spectrum::plan::{HypervisorName, Plan};
use microvm_spectrum::state::catalog::Catalog;
use microvm_spectrum::state::directory::StateDirectory;
use microvm_spectrum::state::leases::Leases;
use microvm_spectrum::state::started::Started;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mutation::{Bytes, bytes, document, text_of};
use crate::support::program::{TOOLS, call, run};
use crate::support::vm_directory::Partition;
use crate::{Verdict, attack, ensure, ensure_printable};

/// A directory in memory where there is one.
pub fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The manifests of the golden packages.
pub fn manifests() -> Vec<Value> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("checks/golden/packages");
    let (mut found, mut waiting) = (Vec::new(), vec![golden]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => waiting.push(entry.path()),
                _ if entry.file_name() == "manifest.json" => {
                    found.push(serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap());
                }
                _ => {}
            }
        }
    }
    assert!(found.len() >= 8, "{}", found.len());
    found
}

/// What `sync` writes of two sources, one of which then goes away: the catalogs,
/// and the leases.
fn synced() -> (Vec<Value>, Value) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let (first, second) = (Partition::at(&root.join("first")), Partition::at(&root.join("second")));
    fs::create_dir(first.root.join("shared")).unwrap();
    first.vm("client").image("root.img", b"").provider("netvm").share("home", "/ext/shared");
    first.vm("netvm").image("root.img", b"");
    first.vm("broken");
    first.vm("blocked").image("root.img", b"").provider("broken");
    second.vm("netvm").image("root.img", b"");
    second.vm("more").image("root.img", b"");
    let mut config = String::new();
    for (name, partition) in [("first", &first), ("second", &second)] {
        let path = partition.root.display();
        config += &format!(
            "[[source]]\nkind = 'user-partition'\nname = '{name}'\npath = '{path}'\nautostart = true\n"
        );
    }
    config += "[vm.'first/client']\nautostart = true\n[tools]\n";
    config.extend(TOOLS.map(|tool| format!("{tool} = '/usr/bin/{tool}'\n")));
    fs::write(root.join("config.toml"), config).unwrap();
    let state = root.join("state");
    // The same wherever and whenever it is made, so that a seed means the same.
    let read = |name: &str| -> Value {
        let text = fs::read_to_string(state.join(".microvm-spectrum").join(name)).unwrap();
        let mut value = serde_json::from_str(&text.replace(root.to_str().unwrap(), "/srv")).unwrap();
        forget_stamps(&mut value);
        value
    };
    let sync = || {
        let paths = [root.join("config.toml"), state.clone()];
        let mut command = call(["sync", "--no-systemd", "--config"]);
        run(command.arg(&paths[0]).arg("--state-dir").arg(&paths[1])).exits(1);
        read("current/catalog.json")
    };
    let mut catalogs = vec![sync()];
    fs::remove_dir_all(first.root.join("svc/data/client")).unwrap();
    catalogs.push(sync());
    fs::remove_dir_all(&second.root).unwrap();
    catalogs.push(sync());
    (catalogs, read("leases.json"))
}

fn forget_stamps(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(forget_stamps),
        Value::Object(values) => {
            for (key, value) in values {
                match key.as_str() {
                    "device" | "inode" | "modified" | "changed" => *value = 1_234_567.into(),
                    _ => forget_stamps(value),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn manifest() {
    let corpus = manifests();
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("manifests", 2, input, |given| {
        let Ok(text) = std::str::from_utf8(&given.0) else { return Ok(false) };
        let plan = match Plan::from_manifest(text) {
            Ok(plan) => plan,
            Err(_) => return Ok(false),
        };
        for files in [FilePaths::of(&plan), FilePaths::inherited(&plan, true)] {
            for hypervisor in HypervisorName::ALL {
                let _ = hypervisor::description(hypervisor).command(&plan, &files);
            }
        }
        let _ = Package::of(&plan).store_name(&plan.name);
        let again = Plan::from_manifest(&plan.to_manifest());
        ensure(again.as_ref().ok() == Some(&plan), || format!("{plan:?} became {again:?}"))?;
        Ok(true)
    });
}

/// Whether the texts that are printed as they stand can be. Paths are made printable
/// when they are printed.
fn printed_as_they_stand(value: &Value, key: &str) -> Result<(), String> {
    match value {
        Value::Object(values) => values.iter().try_for_each(|(key, value)| printed_as_they_stand(value, key)),
        Value::Array(values) => values.iter().try_for_each(|value| printed_as_they_stand(value, key)),
        Value::String(text) if !matches!(key, "directory" | "package" | "entry") => {
            ensure(!text.contains('\n'), || format!("{key}: {text:?}"))?;
            ensure_printable(text)
        }
        _ => Ok(()),
    }
}

#[test]
fn catalog() {
    let corpus = synced().0;
    let place = in_memory();
    let state = StateDirectory::at(place.path());
    let file = state.catalog();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let (generated, mut count) = (place.path().join("generated"), 0);
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("catalogs", 2, input, |given| {
        fs::write(&file, &given.0).unwrap();
        let catalog = match Catalog::read(&file) {
            Ok(catalog) => catalog,
            Err(_) => return Ok(false),
        };
        printed_as_they_stand(&serde_json::to_value(&catalog).unwrap(), "")?;
        let (mut names, mut uids) = (BTreeSet::new(), BTreeSet::new());
        for (vm, known) in catalog.known() {
            let own = names.insert(&vm.name) && uids.insert(known.uid) && may_be_a_vms(known.uid);
            ensure(own, || format!("{} has user id {}", vm.id(), known.uid))?;
        }
        fs::write(&file, versioned::text_of(&catalog).unwrap()).unwrap();
        let again = Catalog::read(&file);
        ensure(again.as_ref().ok() == Some(&catalog), || format!("{catalog:?} became {again:?}"))?;
        count += 1;
        if count % 16 == 0 {
            fs::create_dir(&generated).unwrap();
            generate(&state, Path::new("/usr/bin/program"), &generated).unwrap();
            only_its_own_lines(&generated)?;
            fs::remove_dir_all(&generated).unwrap();
        }
        Ok(true)
    });
}

/// No text of a catalog begins a line of a unit.
fn only_its_own_lines(generated: &Path) -> Result<(), String> {
    let mut waiting = vec![PathBuf::from(generated)];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                let its_own = !text.contains(|c: char| c != '\n' && c.is_control());
                ensure(its_own && !text.lines().any(|line| line.starts_with("Evil=")), || text.clone())?;
            }
        }
    }
    Ok(())
}

#[test]
fn leases() {
    let corpus = [
        synced().1,
        json!({"version": 1, "uids": {"a/b": 70_000, "a/c": 70_001}, "former": {"70002": "a/b"},
            "links": {"a/b": {"c": "a546", "d": "0001"}, "a/c": {"d": "fffe"}}}),
    ];
    let place = in_memory();
    let file = place.path().join("leases.json");
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("leases", 1, input, |given| {
        fs::write(&file, &given.0).unwrap();
        let leases = match Leases::read(&file) {
            Ok(leases) => leases,
            Err(problem) => return ensure_printable(&problem.to_string()).map(|()| false),
        };
        let value = serde_json::to_value(&leases).unwrap();
        let of = |key: &str| value[key].as_object().cloned().unwrap_or_default();
        let mut given = BTreeSet::new();
        let uids = of("uids").values().cloned().collect::<Vec<_>>().into_iter();
        let former =
            of("former").keys().map(|uid| uid.parse::<u64>().unwrap().into()).collect::<Vec<Value>>();
        for uid in uids.chain(former) {
            ensure(given.insert(uid.to_string()), || format!("{uid} is given twice"))?;
        }
        for link in of("links").values().flat_map(|links| links.as_object().unwrap().values()) {
            ensure(given.insert(link.to_string()), || format!("{link} is given twice"))?;
        }
        fs::write(&file, serde_json::to_vec(&leases).unwrap()).unwrap();
        let again = Leases::read(&file);
        ensure(again.as_ref().ok() == Some(&leases), || format!("{leases:?} became {again:?}"))?;
        Ok(true)
    });
}

#[test]
fn started_and_declared() {
    let corpus = [json!({"version": 1, "vm": "user/appvm", "uid": 70_000, "generation": 7,
        "package": "/var/lib/microvms/.microvm-spectrum/packages/x-microvm-appvm", "files": [
            {"entry": "vmlinux", "device": 1, "inode": 2, "size": 3, "modified": -4, "changed": 5}]})];
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("records of what was started", 1, input, |given| {
        let Ok(record) = serde_json::from_slice::<Started>(&given.0) else { return Ok(false) };
        let again = serde_json::from_slice(&serde_json::to_vec(&record).unwrap());
        ensure(again.as_ref().ok() == Some(&record), || format!("{record:?} became {again:?}"))?;
        Ok(true)
    });
    let corpus = [json!({"providers": ["netvm", "b"], "shares": {"home": "/srv/home", "tmp": null}})];
    let place = in_memory();
    let file = place.path().join("declared.json");
    let input = |random: &mut _| {
        let document = document(random, &corpus);
        text_of(random, &document)
    };
    attack("declarations", 1, input, |given| {
        fs::write(&file, &given.0).unwrap();
        match Declaration::read(&file) {
            Ok(_) => Ok(true),
            Err(problem) => ensure_printable(&problem.to_string()).map(|()| false),
        }
    });
}

/// What can stand in the configuration.
fn configurations() -> [Value; 3] {
    let source = |name: &str| {
        json!({"kind": "user-partition", "name": name, "path": format!("/srv/{name}"), "autostart": true,
            "allow": ["/usr/img=/srv/img", "/opt/more"]})
    };
    [
        json!({"source": [source("user"), {"kind": "builtin", "name": "own", "path": "/srv/own"}],
            "defaults": {"memory": 512, "hypervisor": "qemu", "vcpus": 2, "accel": "tcg", "link-ports": 8},
            "uids": {"first": 80_000, "last": 80_010}, "tools": {"virtiofsd": "/opt/virtiofsd"},
            "vm": {"user/a": {"autostart": true, "links": {"netvm": "a546"}, "devices": ["0000:01:00.0"]},
                "own/b": {"memory": 64, "uid": 70_005, "restart-if-changed": true}}}),
        json!({"source": [{"kind": "user-partition", "name": "stick",
            "partuuid": "6a5b0b3c-1234-4abc-9def-0123456789ab"}], "nix-store": true,
            "vm": {"nixed": {"runner": "/nix/store/x-microvm-nixed", "uid": 70_001, "autostart": true}}}),
        json!({"source": [source("one"), source("two")], "vm": {"one/x": {"uid": 70_000}, "two/x": {"uid": 70_001}}}),
    ]
}

#[test]
fn configuration() {
    let corpus = configurations();
    let texts = corpus.each_ref().map(|value| toml::to_string(value).unwrap());
    let place = in_memory();
    let file = place.path().join("config.toml");
    let input = |random: &mut _| match toml::to_string(&document(random, &corpus)) {
        Ok(text) => Bytes(text.into_bytes()),
        // TOML has no null.
        Err(_) => bytes(random, &texts),
    };
    attack("configurations", 2, input, |given| {
        fs::write(&file, &given.0).unwrap();
        match Config::read(&file) {
            Ok(config) => is_consistent(&config),
            Err(problems) => {
                let problems = problems.0.into_sorted();
                ensure(!problems.is_empty(), || "it is refused without a reason".to_owned())?;
                problems.iter().try_for_each(|problem| ensure_printable(&problem.to_string()))?;
                Ok(false)
            }
        }
    });
}

/// What holds of every configuration that is accepted.
fn is_consistent(config: &Config) -> Verdict {
    let mut names = BTreeSet::new();
    for source in &config.sources {
        ensure(names.insert(source.name.to_string()), || format!("{} is there twice", source.name))?;
        ensure(source.root().is_absolute(), || format!("{:?}", source.root()))?;
    }
    let range = [config.uids.first, config.uids.last];
    ensure(range.into_iter().all(may_be_a_vms), || format!("the user ids {range:?}"))?;
    ensure(config.tools.values().all(|path| path.is_absolute()), || format!("{:?}", config.tools))?;
    let mut uids = BTreeSet::new();
    for (id, uid) in config.declared_uids() {
        ensure(may_be_a_vms(uid) && uids.insert(uid), || format!("{id} has user id {uid}"))?;
    }
    let mut devices = BTreeSet::new();
    for (_, id) in config.named() {
        let id: VmId = id;
        for device in config.settings(&id).devices {
            ensure(devices.insert(device), || format!("{device} is in two lists"))?;
        }
    }
    Ok(true)
}
