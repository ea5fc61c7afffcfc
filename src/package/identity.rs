// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The identity of a package by its content, in the form of a Nix store path.
//!
//! It is the path that the package gets when it is added to a Nix store: a digest of
//! its archive (NAR), and its name. Sources: Nix's manual, "Nix Archive (NAR) format"
//! and "Complete Store Path Calculation". This module only hashes the archive, and
//! never holds all of it in memory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Components;

use nix_derivation::hash::{CAHash, NixHash};
use nix_derivation::store_path::StoreDir;
use sha2::{Digest as _, Sha256};

use super::{Entry, Package};
use crate::base::name::VmName;

/// The store that paths are computed for, Nix's default.
const STORE: &str = "/nix/store";

/// One entry, or a directory of entries by name.
enum Node<'a> {
    Entry(&'a Entry),
    Directory(BTreeMap<&'a OsStr, Node<'a>>),
}

impl Package {
    /// The base name of the path that the package of the VM called `name` has
    /// in a Nix store: 32 digits in Nix's base-32, `-microvm-`, and the VM's name.
    ///
    /// Two packages of one VM have the same name exactly if all their entries are the
    /// same.
    pub fn store_name(&self, name: &VmName) -> String {
        let mut digest = Sha256::new();
        text(&mut digest, b"nix-archive-1");
        node(&mut digest, &self.tree());
        let archive = CAHash::Nar(NixHash::Sha256(digest.finalize().into()));
        let name = base_name(name);
        // A store path can have every character of a VM's name, and the rest is
        // constant, so this cannot fail.
        StoreDir::new(STORE)
            .and_then(|store| store.build_ca_path(&name, &archive, [], false))
            .map(|path| path.to_basename())
            .unwrap_or_default()
    }

    fn tree(&self) -> Node<'_> {
        let mut root = BTreeMap::new();
        for (path, entry) in &self.0 {
            insert(&mut root, path.components(), entry);
        }
        Node::Directory(root)
    }
}

/// Puts an entry at the rest of its path into a directory.
fn insert<'a>(directory: &mut BTreeMap<&'a OsStr, Node<'a>>, mut path: Components<'a>, entry: &'a Entry) {
    let Some(name) = path.next() else { return };
    if path.as_path().as_os_str().is_empty() {
        directory.insert(name.as_os_str(), Node::Entry(entry));
        return;
    }
    let below = directory.entry(name.as_os_str()).or_insert_with(|| Node::Directory(BTreeMap::new()));
    // No path is an entry and a directory at the same time.
    if let Node::Directory(below) = below {
        insert(below, path, entry);
    }
}

/// The number of base-32 digits in a store path.
const DIGITS: usize = 32;

/// Whether a file name has the form that [`Package::store_name`] gives to a package of
/// the VM called `name`, and so identifies its content.
pub fn tells_content(file_name: &OsStr, name: &VmName) -> bool {
    let digits = file_name.to_str().and_then(|text| text.strip_suffix(&format!("-{}", base_name(name))));
    digits.is_some_and(|digits| digits.len() == DIGITS)
}

/// The name of a VM's package in a store, without its digest.
pub fn base_name(name: &VmName) -> String {
    format!("microvm-{name}")
}

fn node(digest: &mut Sha256, it: &Node<'_>) {
    text(digest, b"(");
    text(digest, b"type");
    match it {
        Node::Entry(file @ (Entry::File(content) | Entry::Executable(content))) => {
            text(digest, b"regular");
            if matches!(file, Entry::Executable(_)) {
                text(digest, b"executable");
                text(digest, b"");
            }
            text(digest, b"contents");
            text(digest, content.as_bytes());
        }
        Node::Entry(Entry::Link(target)) => {
            text(digest, b"symlink");
            text(digest, b"target");
            text(digest, target.as_os_str().as_bytes());
        }
        Node::Directory(entries) => {
            text(digest, b"directory");
            for (name, below) in entries {
                text(digest, b"entry");
                text(digest, b"(");
                text(digest, b"name");
                text(digest, name.as_bytes());
                text(digest, b"node");
                node(digest, below);
                text(digest, b")");
            }
        }
    }
    text(digest, b")");
}

/// A text of an archive: its length in 8 bytes, the least first, itself, and
/// zeros up to a multiple of 8.
fn text(digest: &mut Sha256, bytes: &[u8]) {
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
    let padding = bytes.len().next_multiple_of(8) - bytes.len();
    digest.update([0_u8; 8].get(..padding).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Computed by `nix-store --add` of Nix 2.26 for the same files.
    const KNOWN: &str = "74mqa3vg2fsiq6c4w0dmbg5nbpcjh851-microvm-a";

    fn package() -> Package {
        Package(BTreeMap::from([
            ("bin/microvm-run".into(), Entry::Executable("#!/bin/sh\n".to_owned())),
            ("share/microvm/hypervisor".into(), Entry::File("qemu\n".to_owned())),
            ("share/microvm/system".into(), Entry::Link("../x".into())),
            ("share/microvm-spectrum/empty".into(), Entry::File(String::new())),
        ]))
    }

    #[test]
    fn is_what_nix_says() {
        assert_eq!(package().store_name(&VmName::new("a").unwrap()), KNOWN);
    }

    #[test]
    fn everything_counts() {
        let name = |text: &str| VmName::new(text).unwrap();
        let mut all = vec![package().store_name(&name("a")), package().store_name(&name("b"))];
        let run = PathBuf::from("bin/microvm-run");
        for entry in [
            Entry::File("#!/bin/sh\n".to_owned()),
            Entry::Executable("#!/bin/sh\n\n".to_owned()),
            Entry::Link("#!/bin/sh\n".into()),
        ] {
            let mut other = package();
            other.0.insert(run.clone(), entry);
            all.push(other.store_name(&name("a")));
        }
        let mut other = package();
        let entry = other.0.remove(&run).unwrap();
        other.0.insert("bin/microvm-stop".into(), entry);
        all.push(other.store_name(&name("a")));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
        assert!(all.iter().filter(|it| tells_content(it.as_ref(), &name("a"))).count() == count - 1);
        assert!(
            !tells_content("microvm-a".as_ref(), &name("a"))
                && !tells_content("x-microvm-a".as_ref(), &name("a"))
        );
    }
}
