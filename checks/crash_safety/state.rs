// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What must be true of a state directory, whatever happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::stage::Stage;
use crate::support::tree::{Node, Tree, assert_same};

const OWN: &str = "state/.microvm-spectrum";
const LEASES: &str = "state/.microvm-spectrum/leases.json";

/// All that a catalog leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Generation {
    /// The catalog, without its number.
    catalog: String,
    /// The packages by VM, all that is in them.
    packages: BTreeMap<String, (PathBuf, Tree)>,
}

/// What is beneath a path, by the rest of the path.
fn beneath(tree: &Tree, root: &Path) -> Tree {
    let entries = tree.iter().filter_map(|(path, node)| Some((path.strip_prefix(root).ok()?, node)));
    entries.map(|(path, node)| (path.to_owned(), node.clone())).collect()
}

fn text(node: Option<&Node>) -> &str {
    match node {
        Some(Node::File { mode: 0o644, content }) => std::str::from_utf8(content).unwrap(),
        other => panic!("no file with mode 644: {other:?}"),
    }
}

fn link<'a>(tree: &'a Tree, path: &Path) -> &'a Path {
    match tree.get(path) {
        Some(Node::Link(target)) => target,
        other => panic!("{} is no link: {other:?}", path.display()),
    }
}

/// The number of the current generation, if there is one.
fn number(tree: &Tree) -> Option<String> {
    let current = Path::new(OWN).join("current");
    tree.contains_key(&current).then(|| {
        let name = link(tree, &current).strip_prefix("generations").unwrap();
        name.to_str().unwrap().to_owned()
    })
}

fn without_number(catalog: &str, number: &str) -> String {
    let line = format!("\n  \"generation\": {number},\n");
    assert!(catalog.contains(&line), "{catalog}");
    catalog.replace(&line, "\n")
}

impl Generation {
    /// What a tree's `current` leads to; `None` when there is none. Asserts that
    /// it is complete in itself.
    pub fn of(tree: &Tree) -> Option<Self> {
        let number = number(tree)?;
        let directory = Path::new(OWN).join("generations").join(&number);
        let catalog = text(tree.get(&directory.join("catalog.json")));
        let parsed: Value = serde_json::from_str(catalog).unwrap();
        let mut packages = BTreeMap::new();
        for vm in parsed["vms"].as_array().unwrap().iter().filter(|vm| vm["state"] == "runnable") {
            let (name, package) = (vm["name"].as_str().unwrap(), vm["package"].as_str().unwrap());
            let target = link(tree, &directory.join("vms").join(name));
            assert_eq!(target, Path::new("../../../packages").join(package));
            let root = Path::new(OWN).join("packages").join(package);
            let content = beneath(tree, &root);
            assert!(content.contains_key(Path::new("bin/microvm-run")), "{package} is not complete");
            packages.insert(name.to_owned(), (root, content));
            let folder = Path::new("state").join(name);
            assert_eq!(tree.get(&folder), Some(&Node::Directory { mode: 0o755 }), "{name}");
            let wanted = Path::new("../.microvm-spectrum/current/vms").join(name);
            assert_eq!(link(tree, &folder.join("current")), wanted);
        }
        let links = beneath(tree, &directory.join("vms")).len() - 1;
        assert_eq!(links, packages.len(), "VMs that are not in the catalog");
        Some(Self { catalog: without_number(catalog, &number), packages })
    }
}

/// A tree with the current generation's number taken out, which goes up with each try.
pub fn unnumbered(tree: &Tree) -> Tree {
    let Some(number) = number(tree) else { return tree.clone() };
    let directory = Path::new(OWN).join("generations");
    let (numbered, plain) = (directory.join(&number), directory.join("N"));
    let entries = tree.iter().map(|(path, node)| match path.strip_prefix(&numbered) {
        Ok(rest) if rest == Path::new("catalog.json") => {
            let content = without_number(text(Some(node)), &number).into_bytes();
            (plain.join(rest), Node::File { mode: 0o644, content })
        }
        Ok(rest) => (plain.join(rest), node.clone()),
        Err(_) if *path == Path::new(OWN).join("current") => {
            (path.clone(), Node::Link("generations/N".into()))
        }
        Err(_) => (path.clone(), node.clone()),
    });
    entries.collect()
}

/// A tree like [`unnumbered`], without what is leased to VMs that are gone.
pub fn without_leases(tree: &Tree) -> Tree {
    let mut tree = unnumbered(tree);
    tree.remove(Path::new(LEASES));
    let catalog = Path::new(OWN).join("generations/N/catalog.json");
    let mut parsed: Value = serde_json::from_str(text(tree.get(&catalog))).unwrap();
    parsed.as_object_mut().unwrap().remove("leases");
    tree.insert(catalog, Node::File { mode: 0o644, content: parsed.to_string().into_bytes() });
    tree
}

/// The leases.
pub fn leases(tree: &Tree) -> Option<&Node> {
    tree.get(Path::new(LEASES))
}

/// What is there: the old, or the new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Old,
    New,
}

/// Asserts that all of the old is there, or all of the new, and nothing is lost.
#[track_caller]
pub fn assert_whole(stage: &Stage, old: &Tree, new: &Tree, found: &Tree) -> Which {
    let generation = Generation::of(found);
    let is_old = generation == Generation::of(old);
    if !is_old && generation != Generation::of(new) {
        let catalog = generation.map(|generation| generation.catalog).unwrap_or_default();
        assert_same(
            &unnumbered(new),
            &unnumbered(found),
            &format!("neither the old nor the new:\n{catalog}"),
        );
    }
    // What VMs were given, before anything uses it.
    let mine = leases(found);
    assert!(mine == leases(new) || is_old && mine == leases(old), "other leases: {mine:?}");
    assert_nothing_lost(stage, old, found);
    if is_old { Which::Old } else { Which::New }
}

/// Asserts that everything is there that `sync` may not touch, and every lease.
#[track_caller]
pub fn assert_nothing_lost(stage: &Stage, old: &Tree, found: &Tree) {
    for (vm, uid) in uids(old) {
        assert_eq!(uids(found).get(&vm), Some(&uid), "{vm}'s lease");
    }
    let precious = |tree: &Tree| -> Tree {
        let mine = tree.iter().filter(|(path, _)| stage.is_precious(path));
        mine.map(|(path, node)| (path.clone(), node.clone())).collect()
    };
    assert_same(&precious(old), &precious(found), "another program's file");
    // What runs, runs on: the link, and all that it leads to.
    for (path, booted) in old.iter().filter(|(path, _)| path.ends_with("booted")) {
        assert_eq!(found.get(path), Some(booted));
        let Node::Link(target) = booted else { panic!("{booted:?}") };
        let package = target.strip_prefix(&stage.place).unwrap();
        assert_same(&beneath(old, package), &beneath(found, package), "what a VM runs from");
    }
}

/// The user ids that are leased.
fn uids(tree: &Tree) -> BTreeMap<String, u64> {
    let Some(leases) = leases(tree) else { return BTreeMap::new() };
    let leases: Value = serde_json::from_str(text(Some(leases))).unwrap();
    serde_json::from_value(leases["uids"].clone()).unwrap()
}
