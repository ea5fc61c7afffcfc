// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Rules that Nix needs before anything is built, and that the program has, too: both
//! say the same of random input.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::ValueEnum;
use microvm_spectrum::base::name::VmName;
use microvm_spectrum::config::AcceleratorChoice;
use microvm_spectrum::link::graph::{Blocked, blocked};
use microvm_spectrum::link::id::LinkId;
use microvm_spectrum::plan::HypervisorName;
use microvm_spectrum::plan::pci::PciAddress;
use microvm_spectrum::plan::uplink::PortForward;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::modules::libs;
use crate::support::random::Random;

const SEED: u64 = 12;
const SAMPLES: usize = 1500;

/// A text like those of `good`, each of which a rule takes: a few characters are others,
/// more or fewer.
fn near(random: &mut Random, good: &[&str]) -> String {
    let others = ['a', 'F', 'g', 'Z', '0', '1', '2', '9', '.', '-', '_', ':', '/', ' ', '\n', '%', 'ü', '\\'];
    let mut text: Vec<char> = random.pick(good).unwrap().chars().collect();
    for _ in 0..random.below(3) {
        let index = random.index(text.len());
        let other = random.pick(&others).unwrap();
        match random.below(3) {
            0 => text.insert(index, other),
            1 if index < text.len() => text[index] = other,
            _ if index < text.len() => drop(text.remove(index)),
            _ => {}
        }
    }
    text.into_iter().collect()
}

fn texts(random: &mut Random, good: &[&str]) -> Vec<String> {
    (0..SAMPLES).map(|_| near(random, good)).collect()
}

type Graph = BTreeMap<String, Vec<String>>;

/// Up to seven VMs, each with up to three providers, some of which are none of them.
fn graph(random: &mut Random) -> Graph {
    let vm = |number: u64| format!("vm{number}");
    let providers = |random: &mut Random| (0..random.below(3)).map(|_| vm(random.below(9))).collect();
    (0..random.below(8)).map(|number| (vm(number), providers(random))).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InNix {
    names: Vec<bool>,
    link_ids: Vec<bool>,
    link_ids_of_options: Vec<bool>,
    normal: Vec<String>,
    derived: Vec<Value>,
    devices: Vec<bool>,
    ports: Vec<bool>,
    cycles: Vec<Vec<String>>,
    hypervisors: BTreeSet<String>,
    accelerators: BTreeSet<String>,
}

fn in_nix(samples: &Value, lib: &str) -> InNix {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("samples.json");
    fs::write(&file, samples.to_string()).unwrap();
    let output = crate::nix_command("nix-instantiate")
        .args(["--eval", "--strict", "--json", "--argstr", "lib", lib, "--argstr", "samples"])
        .arg(&file)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("checks/nix/rules.nix"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn vm(text: &str) -> VmName {
    VmName::new(text).unwrap()
}

/// Both verdicts of each text are the same, and there are enough of both kinds.
fn compare(what: &str, texts: &[String], in_nix: &[bool], takes: impl Fn(&str) -> bool) {
    for (text, in_nix) in texts.iter().zip(in_nix) {
        assert_eq!(*in_nix, takes(text), "{what} {text:?}: Nix takes it, or the program");
    }
    let taken = in_nix.iter().filter(|taken| **taken).count();
    assert!(in_nix.len() == texts.len() && taken.clamp(100, SAMPLES - 100) == taken, "{what}: {taken}");
}

#[test]
fn the_rules_of_nix_are_those_of_the_program() {
    let random = &mut Random(SEED);
    let longest = "a".repeat(64);
    let names = texts(random, &["a", "_x", "netvm", "app-1.b", &longest]);
    let link_ids = texts(random, &["a546", "0000", "FFFF", "ffFf", "0001", "A5b6"]);
    let devices = texts(random, &["0000:01:00.0", "10de:ff:1f.7", "0000:0a:19.1"]);
    let ports = texts(random, &["127.0.0.1:8080:80", "0.0.0.0:53:53/udp", "255.10.99.100:1:21212"]);
    let graphs: Vec<Graph> = (0..SAMPLES).map(|_| graph(random)).collect();
    let pair = |client: &str, provider: &str| json!({ "client": client, "provider": provider });
    let mut pairs: Vec<_> = (0..300).map(|n| pair(&format!("app{n}"), &format!("netvm.{}", n % 7))).collect();
    pairs.push(pair(&longest, "_"));
    // Their hashes begin with 0000 and ffff.
    let reserved = ["app112093", "app21947"];
    pairs.extend(reserved.map(|client| pair(client, "netvm")));
    let samples = json!({
        "names": names, "linkIds": link_ids, "devices": devices, "ports": ports, "graphs": graphs, "pairs": pairs
    });
    for lib in libs() {
        let found = in_nix(&samples, &lib);
        compare("name", &names, &found.names, |text| VmName::new(text).is_ok());
        compare("device", &devices, &found.devices, |text| text.parse::<PciAddress>().is_ok());
        compare("port", &ports, &found.ports, |text| text.parse::<PortForward>().is_ok());
        compare("link id", &link_ids, &found.link_ids, |text| text.parse::<LinkId>().is_ok());
        for (index, id) in link_ids.iter().enumerate() {
            if let Ok(parsed) = id.parse::<LinkId>() {
                assert_eq!(found.normal[index], parsed.to_string());
                assert!(found.link_ids_of_options[index], "{id}");
            }
        }
        for (pair, found) in pairs.iter().zip(&found.derived) {
            let (client, provider) = (pair["client"].as_str().unwrap(), pair["provider"].as_str().unwrap());
            let id = LinkId::derive(&vm(client), &vm(provider), &BTreeSet::new()).unwrap();
            assert_eq!(reserved.contains(&client), id.to_string() == "0001", "{client}");
            let expected = json!({
                "client": "client",
                "provider": "provider",
                "id": id.to_string(),
                "clientMac": id.client_mac().to_string(),
                "providerMac": id.provider_mac().to_string(),
                "clientIpv4": id.client_ipv4().to_string(),
                "clientTap": id.client_tap(),
                "providerTap": id.provider_tap(),
                "bridge": id.bridge(),
            });
            assert_eq!(*found, expected);
        }
        let with_cycles =
            graphs.iter().zip(&found.cycles).filter(|(graph, cycles)| same_cycles(graph, cycles));
        let count = with_cycles.count();
        assert!(count.clamp(100, SAMPLES - 100) == count, "{count} graphs have cycles");
        assert_eq!(found.hypervisors, HypervisorName::ALL.map(|name| name.to_string()).into());
        let accelerators = AcceleratorChoice::value_variants().iter().map(|choice| {
            let value = choice.to_possible_value().unwrap();
            value.get_name().to_owned()
        });
        assert_eq!(found.accelerators, accelerators.collect());
    }
}

/// Asserts that Nix finds a cycle where the program does, and only real ones; whether
/// there are any.
fn same_cycles(graph: &Graph, in_nix: &[String]) -> bool {
    let clients =
        graph.iter().map(|(name, providers)| (vm(name), providers.iter().map(|name| vm(name)).collect()));
    let found = blocked(&clients.collect(), BTreeMap::new(), &BTreeSet::new());
    let has_cycles = found.values().flatten().any(|why| matches!(why, Blocked::Cycle(_)));
    assert_eq!(!in_nix.is_empty(), has_cycles, "{graph:?}: {in_nix:?}");
    for message in in_nix {
        let (_, cycle) = message.split_once(": ").unwrap();
        let cycle: Vec<_> = cycle.split(';').next().unwrap().split(" -> ").collect();
        assert_eq!((cycle.first(), cycle.len() > 1), (cycle.last(), true), "{graph:?}: {message}");
        assert_eq!(cycle.first(), cycle.iter().min(), "{graph:?}: {message}");
        for edge in cycle.windows(2) {
            assert!(graph[edge[0]].iter().any(|name| name == edge[1]), "{graph:?}: {message}");
        }
    }
    has_cycles
}
