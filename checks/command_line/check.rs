// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `check`: everything in one go, and its status.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::program::{call, check, run};
use crate::support::vm_directory::{Partition, VmDirectory, root_image, workplace};

/// A directory with this many problems, each of another kind.
const ERRORS: [(&str, &str); 14] = [
    ("", "a VM name cannot contain the character ' '"),
    ("blk/dangling.img", "does not exist"),
    ("blk/directory.img", "is a directory, not a regular file"),
    ("blk/loop.img", "follows more than 40 links"),
    ("blk/outside.img", "leads to '/dev/sda', outside"),
    ("blk/pipe.img", "is a named pipe, not a regular file"),
    ("providers/net/-bad", "is not the name of a VM"),
    ("shared-dirs/definitions/dir", "the guest could rewrite VM definitions"),
    ("shared-dirs/empty/dir", "is missing"),
    ("shared-dirs/file/dir", "leads to a regular file, not a directory"),
    ("shared-dirs/real/dir", "is not a symbolic link"),
    ("shared-dirs/ttttttttttttttttttttttttttttttttttttt", "the tag has 37 bytes"),
    ("vmlinux", "is compressed with gzip"),
    ("wayland", "cross-domain"),
];
const NOTES: [(&str, &str); 4] = [
    ("blk/readme.txt", "is ignored"),
    ("blk/root.img", "QCOW2"),
    ("notes.txt", "is ignored"),
    ("providers/usb", "is ignored"),
];

fn full_of_problems(partition: &Partition) -> VmDirectory {
    let vm = partition
        .vm("bad name")
        .kernel(b"\x1f\x8b\x08")
        .image("root.img", b"QFI\xfb")
        .image("readme.txt", b"")
        .image_link("dangling.img", "nowhere")
        .image_link("loop.img", "loop.img")
        .image_link("outside.img", "/dev/sda")
        .directory("blk/directory.img")
        .fifo("blk/pipe.img")
        .provider("-bad")
        .file("providers/usb", b"")
        .share("definitions", "/ext/svc")
        .directory("shared-dirs/empty")
        .directory("shared-dirs/real/dir")
        .share("t".repeat(37), "/ext")
        .file("notes.txt", b"")
        .file("wayland", b"");
    vm.share("file", "/ext/svc/data/bad name/notes.txt")
}

#[test]
fn tells_every_problem_of_several_directories_in_one_go() {
    let (_guard, root) = workplace();
    let partition = Partition::at(&root);
    let full = full_of_problems(&partition);
    let empty = partition.root.join("svc/data/empty");
    fs::create_dir(&empty).unwrap();
    let good = partition.vm("good").image("root.img", b"");
    let missing = root.join("missing");

    let mut command = check(&full.path);
    let ran = run(command.arg(&empty).arg(&good.path).arg(&missing)).exits(1);
    let problems = ran.problems();
    let mut expected: Vec<_> = ERRORS
        .iter()
        .map(|(entry, cause)| ("error", join(&full.path, entry), *cause))
        .chain(NOTES.iter().map(|(entry, cause)| ("note", join(&full.path, entry), *cause)))
        .collect();
    expected.push(("error", join(&empty, "blk"), "does not exist"));
    expected.push(("error", join(&empty, "vmlinux"), "does not exist"));
    expected.push(("error", missing.to_str().unwrap().to_owned(), "cannot be found"));
    assert_eq!(problems.len(), expected.len(), "{}", ran.stdout);
    for (problem, (severity, path, cause)) in problems.iter().zip(expected) {
        assert_eq!(problem.severity, severity, "{problem:?}");
        assert!(problem.text.starts_with(&format!("{path}: ")), "{problem:?} is not about {path}");
        assert!(problem.text.contains(cause), "{problem:?} does not say {cause:?}");
        assert!(problem.help.len() > 5, "{problem:?} does not help");
    }
    let summary = ran.stdout.lines().last();
    assert_eq!(summary, Some("4 VM directories: 17 errors, 4 notes"));
    assert_eq!(ran.stderr, "");
}

fn join(directory: &Path, entry: &str) -> String {
    let path = if entry.is_empty() { directory.to_owned() } else { directory.join(entry) };
    path.to_str().unwrap().to_owned()
}

#[test]
fn json_is_one_document_with_everything_in_it() {
    let (_guard, root) = workplace();
    let partition = Partition::at(&root);
    let full = full_of_problems(&partition);
    let good = partition.vm("good").image("root.img", b"");
    let ran = run(check(&full.path).arg(&good.path).arg("--json")).exits(1);
    assert_eq!(ran.stderr, "");
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["errors"], ERRORS.len());
    assert_eq!(document["notes"], NOTES.len());
    let directories = document["directories"].as_array().unwrap();
    let named: Vec<_> = directories.iter().map(|d| d["directory"].as_str().unwrap()).collect();
    assert_eq!(named, [full.path.to_str().unwrap(), good.path.to_str().unwrap()]);
    assert_eq!(directories[1]["problems"], Value::Array(Vec::new()));
    let problems = directories[0]["problems"].as_array().unwrap();
    // The same as without --json, in the same order.
    let text = run(&mut check(&full.path)).exits(1).problems();
    assert_eq!(problems.len(), text.len());
    for (problem, printed) in problems.iter().zip(text) {
        let keys: Vec<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["cause", "path", "remedy", "severity"]);
        let field = |name: &str| problem[name].as_str().filter(|text| !text.is_empty()).unwrap();
        assert_eq!(field("severity"), printed.severity);
        assert_eq!(format!("{}: {}", field("path"), field("cause")), printed.text);
        assert_eq!(field("remedy"), printed.help);
    }
    let good = run(check(&good.path).arg("--json")).exits(0);
    assert_eq!(serde_json::from_str::<Value>(&good.stdout).unwrap()["errors"], 0);
}

#[test]
fn a_clean_directory_is_fine_and_so_is_one_with_notes() {
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm("good").image("root.img", b"");
    run(&mut check(&vm.path)).finds_nothing();
    run(check(&vm.path).args(["--hypervisor", "qemu"])).finds_nothing();
    let vm = vm.file("notes.txt", b"");
    run(&mut check(&vm.path)).has_one_note(
        &vm.path.join("notes.txt"),
        "is not part of a Spectrum VM directory",
        "remove it",
    );
}

#[test]
fn directories_are_found_however_they_are_named() {
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm("good").image_link("root.img", "/ext/images/root.img");
    fs::create_dir(root.join("images")).unwrap();
    fs::write(root.join("images/root.img"), root_image()).unwrap();
    for (place, name) in [("svc/data", "good"), ("svc/data/good", "."), ("svc/data/good/blk", "..")] {
        run(check(Path::new(name)).current_dir(root.join(place))).finds_nothing();
    }
    run(&mut check(&vm.path.join(""))).finds_nothing();
    std::os::unix::fs::symlink(&root, root.join("alias")).unwrap();
    run(&mut check(&root.join("alias/svc/data/good"))).finds_nothing();
}

#[test]
fn a_missing_directory_is_named() {
    let (_guard, root) = workplace();
    run(&mut check(&root.join("none"))).has_one_error(&root.join("none"), "cannot be found", "existing");
    fs::write(root.join("file"), "").unwrap();
    run(&mut check(&root.join("file"))).has_one_error(&root.join("file"), "is not a directory", "vmlinux");
    run(&mut check(Path::new(""))).exits(2);
    let vm = VmDirectory::at(&root.join("vm")).image("root.img", b"");
    let elsewhere = root.join("vm/blk");
    run(check(&vm.path).arg("--user-partition").arg(&elsewhere)).has_one_error(
        &vm.path,
        "is not beneath the user partition",
        "--user-partition",
    );
    let none = root.join("none");
    run(check(&vm.path).arg("--user-partition").arg(&none)).has_one_error(&none, "cannot be found", "mount");
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in [
        &["check", "--nonsense", "/"][..],
        &["check", "/", "--hypervisor", "vmware"],
        &["check", "/", "--allow", "relative"],
        &["check", "/", "--allow", "/a/../b"],
        &["nonsense"],
        &[],
        &["vm"],
        &["vm", "run"],
        &["command"],
    ] {
        let ran = run(&mut call(arguments)).exits(2);
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(
            ran.stderr.contains("--help") || ran.stderr.contains("Usage:"),
            "{arguments:?}: {}",
            ran.stderr
        );
    }
}

#[test]
fn wayland_says_what_it_needs() {
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm("windows").image("root.img", b"").file("wayland", b"");
    let path = vm.path.join("wayland");
    let refused = run(&mut check(&vm.path));
    for need in ["--gpu patch", "no shared memory regions"] {
        assert!(refused.stdout.contains(need), "{}", refused.stdout);
    }
    refused.has_one_error(&path, "cloud-hypervisor", "hypervisor = \"qemu\"");
    run(check(&vm.path).args(["--hypervisor", "qemu"])).exits(0);
}

#[test]
fn unknown_entries_are_notes_and_counted_when_there_are_many() {
    let (_guard, root) = workplace();
    let mut vm = Partition::at(&root).vm("vm").image("root.img", b"");
    for number in 10..30 {
        vm = vm.file(&format!("unknown-{number}"), b"");
    }
    let ran = run(&mut check(&vm.path)).exits(0);
    let problems = ran.problems();
    assert_eq!(problems.len(), 9, "{}", ran.stdout);
    assert!(problems.iter().all(|p| p.severity == "note"));
    assert!(ran.stdout.contains("12 more entries are ignored"), "{}", ran.stdout);
}
