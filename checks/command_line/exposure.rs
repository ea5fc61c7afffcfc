// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! No share hands its guest the choice of its own disks and shares.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::program::{build, check, run};
use crate::support::vm_directory::{Partition, VmDirectory, elf_header, root_image, workplace};

struct Place {
    _guard: tempfile::TempDir,
    root: PathBuf,
    partition: Partition,
}

fn place(directories: &[&str]) -> Place {
    let (guard, root) = workplace();
    let partition = Partition::at(&root.join("p"));
    for directory in directories {
        fs::create_dir_all(root.join("p").join(directory)).unwrap();
    }
    Place { _guard: guard, root, partition }
}

#[track_caller]
fn refused(vm: &VmDirectory, tag: &str, why: &str) {
    let entry = vm.path.join("shared-dirs").join(tag).join("dir");
    run(&mut check(&vm.path)).has_one_error(&entry, why, "share a separate directory");
}

#[test]
fn a_share_through_which_another_share_is_found() {
    let place = place(&["y/tagdir"]);
    let vm = place.partition.vm("vm").image("root.img", b"");
    symlink("/ext/y", place.partition.root.join("y/tagdir/dir")).unwrap();
    fs::create_dir(vm.path.join("shared-dirs")).unwrap();
    symlink("/ext/y/tagdir", vm.path.join("shared-dirs/s")).unwrap();
    refused(&vm, "s", "contains a directory on the path to shared-dirs/s/dir");
}

#[test]
fn a_share_through_which_an_image_is_found() {
    let place = place(&["w", "store", "w/deep"]);
    fs::write(place.partition.root.join("store/root.img"), root_image()).unwrap();
    symlink("/ext/store/root.img", place.partition.root.join("w/deep/middle.img")).unwrap();
    let vm = place.partition.vm("vm").image_link("a.img", "/ext/w/deep/middle.img").share("s", "/ext/w");
    refused(&vm, "s", "contains a directory on the path to blk/a.img");
    // Beside it is fine.
    let vm = place.partition.vm("beside").image_link("a.img", "/ext/w/deep/middle.img");
    fs::create_dir(place.partition.root.join("w/other")).unwrap();
    run(&mut check(&vm.share("s", "/ext/w/other").path)).finds_nothing();
}

#[test]
fn a_share_that_holds_an_image_or_the_kernel() {
    let place = place(&["x/blk", "z"]);
    fs::write(place.partition.root.join("x/blk/root.img"), root_image()).unwrap();
    fs::write(place.partition.root.join("z/vmlinux"), elf_header()).unwrap();
    let vm = place.partition.vm("images");
    fs::remove_dir(vm.path.join("blk")).unwrap();
    symlink("/ext/x/blk", vm.path.join("blk")).unwrap();
    refused(&vm.share("s", "/ext/x"), "s", "contains blk");
    let vm = place.partition.vm("kernel").image("root.img", b"");
    fs::remove_file(vm.path.join("vmlinux")).unwrap();
    symlink("/ext/z/vmlinux", vm.path.join("vmlinux")).unwrap();
    refused(&vm.share("s", "/ext/z"), "s", "contains a directory on the path to vmlinux");
}

#[test]
fn a_share_that_holds_another_vm_that_is_a_link() {
    let place = place(&["vms/a/blk"]);
    symlink("/ext/vms/a", place.partition.root.join("svc/data/a")).unwrap();
    for (name, target, why) in [
        ("outside", "/ext/vms", "contains the VM directory a"),
        ("itself", "/ext/vms/a", "contains the VM directory a"),
        ("inside", "/ext/vms/a/blk", "lies within the VM directory a"),
    ] {
        refused(&place.partition.vm(name).image("root.img", b"").share("s", target), "s", why);
    }
}

#[test]
fn a_share_above_the_user_partition() {
    let place = place(&[]);
    let vm = place.partition.vm("vm").image("root.img", b"").share("s", "/above");
    let allow = format!("/above={}", place.root.display());
    let entry = vm.path.join("shared-dirs/s/dir");
    run(check(&vm.path).args(["--allow", &allow])).has_one_error(
        &entry,
        "contains svc/data",
        "share a separate directory",
    );
}

#[test]
fn a_vm_directory_of_its_own_may_share_what_is_in_it() {
    let (_guard, root) = workplace();
    let vm = VmDirectory::at(&root.join("alone")).image("root.img", b"");
    fs::create_dir(vm.path.join("home")).unwrap();
    let vm = vm.share("fine", "/ext/home");
    run(&mut check(&vm.path)).has_one_note(
        &vm.path.join("home"),
        "is not part of a Spectrum VM directory",
        "remove it",
    );
    let ran = run(&mut check(&vm.share("own", "/ext/blk").path)).exits(1);
    assert!(ran.stdout.contains("shared-dirs/own/dir: leads to "), "{}", ran.stdout);
    assert!(ran.stdout.contains("which contains blk"), "{}", ran.stdout);
}

#[test]
fn a_package_is_not_built_into_its_own_share() {
    let place = place(&["home/deep"]);
    let vm = place.partition.vm("vm").image("root.img", b"").share("s", "/ext/home");
    let output = place.partition.root.join("home/deep/out");
    let ran = run(&mut build(&vm.path, &output, "qemu")).exits(1);
    assert!(ran.stderr.contains("home/deep/out: lies in "), "{}", ran.stderr);
    assert!(ran.stderr.contains("choose an output outside of shared directories"), "{}", ran.stderr);
    assert!(!output.exists());
}

#[test]
fn the_allowed_directory_itself_may_be_shared() {
    let place = place(&[]);
    let media = place.root.join("media");
    fs::create_dir_all(media.join("deep")).unwrap();
    let allow = format!("/media={}", media.display());
    let vm = place.partition.vm("vm").image("root.img", b"").share("s", "/media");
    run(check(&vm.path).args(["--allow", &allow])).finds_nothing();
    // But not when another share is found through it.
    let vm = vm.share("t", "/media/deep");
    let entry = vm.path.join("shared-dirs/s/dir");
    run(check(&vm.path).args(["--allow", &allow])).has_one_error(
        &entry,
        "contains a directory on the path to shared-dirs/t/dir",
        "share a separate directory",
    );
}

#[test]
fn a_guest_does_not_choose_its_providers() {
    let place = place(&["nets"]);
    let vm = place.partition.vm("vm").image("root.img", b"").directory("providers");
    let vm = vm.link("providers/net", "/ext/nets").share("s", "/ext/nets");
    let entry = vm.path.join("shared-dirs/s/dir");
    run(&mut check(&vm.path)).has_one_error(&entry, "contains providers/net", "share a separate directory");
}
