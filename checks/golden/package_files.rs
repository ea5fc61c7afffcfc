// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Comparing packages with those in `packages/<case>/<hypervisor>/`.
//!
//! A manifest holds absolute paths, and the name of `share/microvm/system`'s
//! target holds the manifest's SHA-256. Both are checked here as they were
//! built, and replaced in `packages/` by the words [`ROOT`] and [`VERSION`].

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::cases;
use crate::support::program::{HYPERVISORS, build, call, run};
use crate::support::tree::{self, Node, Tree, assert_same};
use crate::support::vm_directory::VmDirectory;

/// Stands for the directory that holds everything of a case.
const ROOT: &str = "@ROOT@";
/// Stands for the SHA-256 of the manifest.
const VERSION: &str = "sha256-@MANIFEST@";
const MANIFEST: &str = "share/microvm-spectrum/manifest.json";

/// One VM directory.
pub struct Case<'a> {
    pub name: &'a str,
    /// The directory that holds everything that the case names.
    pub root: &'a Path,
    pub vm: &'a VmDirectory,
    pub options: &'a [&'a str],
}

/// Compares the packages and command lines for both hypervisors.
pub fn packages_match(case: &Case) {
    for hypervisor in HYPERVISORS {
        package_matches(case, hypervisor);
    }
}

/// Compares the package and the command line for one hypervisor.
pub fn package_matches(case: &Case, hypervisor: &str) {
    let output = case.root.join(format!("out-{hypervisor}"));
    run(build(&case.vm.path, &output, hypervisor).args(case.options)).exits(0).says_nothing();
    let package = with_placeholders(tree::read(&output), case.root);
    compare_tree(&folder(case.name).join(hypervisor), &package);
    let command = run(call(["command"]).arg(&output)).exits(0);
    assert_eq!(command.stderr, "");
    compare_text(&folder(case.name).join(format!("{hypervisor}.command")), &command.stdout, case.root);
}

/// Compares what `build` says for one hypervisor when it refuses.
pub fn error_matches(case: &Case, hypervisor: &str) {
    let output = case.root.join(format!("out-{hypervisor}"));
    let refused = run(build(&case.vm.path, &output, hypervisor).args(case.options)).exits(1);
    assert_eq!(refused.stdout, "");
    assert!(output.symlink_metadata().is_err(), "nothing was to be built");
    compare_text(&folder(case.name).join(format!("{hypervisor}.error")), &refused.stderr, case.root);
}

fn folder(case: &str) -> PathBuf {
    assert!(cases::NAMES.contains(&case), "{case} is missing in NAMES");
    packages().join(case)
}

fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checks/golden/packages")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// Checks what differs from one run to the next, and puts words in its place.
fn with_placeholders(built: Tree, root: &Path) -> Tree {
    let Some(Node::File { content, .. }) = built.get(Path::new(MANIFEST)) else {
        panic!("there is no {MANIFEST}");
    };
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let version = format!("sha256-{hash}");
    let system = Node::Link(format!("../microvm-spectrum/{version}").into());
    assert_eq!(built.get(Path::new("share/microvm/system")), Some(&system));
    let link = built.get(&Path::new("share/microvm-spectrum").join(&version));
    assert_eq!(link, Some(&Node::Link("manifest.json".into())), "system must lead somewhere");
    let replaced = |path: PathBuf| PathBuf::from(path.to_str().unwrap().replace(&version, VERSION));
    built
        .into_iter()
        .map(|(path, node)| {
            let node = match node {
                Node::Link(target) => Node::Link(replaced(target)),
                Node::File { mode, content } => {
                    let text = String::from_utf8(content).expect("a package holds text");
                    let content = without_root(&text, root).into_bytes();
                    Node::File { mode, content }
                }
                other => other,
            };
            (replaced(path), node)
        })
        .collect()
}

fn without_root(text: &str, root: &Path) -> String {
    let root = root.to_str().unwrap();
    let plain = root.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    assert!(plain, "TMPDIR must be a path without special characters: {root}");
    assert!(!text.contains(ROOT) && !text.contains(VERSION));
    text.replace(root, ROOT)
}

pub fn compare_tree(golden: &Path, package: &Tree) {
    if updating() {
        write(golden, package);
    }
    assert!(golden.is_dir(), "{} is missing; UPDATE_GOLDEN=1 writes it", golden.display());
    // Git keeps of a mode only whether a file is executable.
    let expected = tree::read(golden).into_iter().map(|(path, node)| {
        let node = match node {
            Node::Directory { .. } => Node::Directory { mode: 0o755 },
            Node::File { mode, content } => {
                let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
                Node::File { mode, content }
            }
            other => other,
        };
        (path, node)
    });
    assert_same(&expected.collect(), package, &format!("not what is in {}", golden.display()));
}

fn write(golden: &Path, package: &Tree) {
    let _ = fs::remove_dir_all(golden);
    for (path, node) in package {
        // The root's path is empty, and joining that would end it with a slash.
        let path = golden.components().chain(path.components()).collect::<PathBuf>();
        match node {
            Node::Directory { .. } => fs::create_dir_all(&path).unwrap(),
            Node::Link(target) => symlink(target, &path).unwrap(),
            Node::Special => panic!("{} is a special file", path.display()),
            Node::File { mode, content } => {
                use std::os::unix::fs::PermissionsExt as _;
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
    }
}

fn compare_text(golden: &Path, text: &str, root: &Path) {
    let text = without_root(text, root);
    if updating() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(golden, &text).unwrap();
    }
    let expected = fs::read_to_string(golden)
        .unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", golden.display()));
    assert_eq!(expected, text, "not the text in {}", golden.display());
}

#[test]
fn no_golden_package_is_left_without_its_case() {
    // While they are written, another test may not have come to its own yet.
    if !updating() {
        assert_eq!(tree::names(&packages()), cases::NAMES);
    }
}

#[test]
fn a_difference_of_any_kind_is_found() {
    let file = |mode, text: &str| Node::File { mode, content: text.into() };
    let tree = |node: Option<Node>| Tree::from_iter(node.map(|node| (PathBuf::from("x"), node)));
    let kinds = [
        None,
        Some(file(0o644, "a")),
        Some(file(0o644, "b")),
        Some(file(0o755, "a")),
        Some(Node::Link("a".into())),
        Some(Node::Link("b".into())),
        Some(Node::Directory { mode: 0o755 }),
        Some(Node::Directory { mode: 0o700 }),
        Some(Node::Special),
    ];
    for (i, left) in kinds.iter().enumerate() {
        for (j, right) in kinds.iter().enumerate() {
            let found =
                std::panic::catch_unwind(|| assert_same(&tree(left.clone()), &tree(right.clone()), ""));
            assert_eq!(found.is_err(), i != j, "{left:?} {right:?}");
        }
    }
}
