// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `shared-dirs/<tag>/dir` of [a VM directory](../../docs/vm-directory.md).

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;

use crate::support::program::{Ran, check, run};
use crate::support::skip::{needs, root};
use crate::support::vm_directory::{Partition, VmDirectory, root_image, workplace};

/// A partition in a directory that also holds other things.
struct Place {
    _guard: tempfile::TempDir,
    root: std::path::PathBuf,
    partition: Partition,
}

fn place() -> Place {
    let (guard, root) = workplace();
    let partition = Partition::at(&root.join("partition"));
    for directory in ["partition/documents", "partition/svc/logs", "partition/svc/data/other/blk", "host"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    Place { _guard: guard, root, partition }
}

impl Place {
    fn vm(&self) -> VmDirectory {
        self.partition.vm("vm").image("root.img", b"")
    }

    fn share(&self, target: impl AsRef<Path>) -> VmDirectory {
        self.vm().share("tag", target)
    }
}

#[track_caller]
fn refuses(vm: &VmDirectory, entry: &str, cause: &str, help: &str) {
    run(&mut check(&vm.path)).has_one_error(&vm.path.join(entry), cause, help);
}

/// The reason for which a share hands VM definitions to the guest.
#[track_caller]
fn exposes(ran: Ran, vm: &VmDirectory) {
    let path = vm.path.join("shared-dirs/tag/dir");
    ran.has_one_error(&path, "the guest could rewrite VM definitions", "a separate directory");
}

#[test]
fn a_link_shares_only_what_its_own_owner_owns() {
    needs!(root("can give files away"));
    let place = place();
    let (vm, shared) = (place.share("/ext/alias"), place.partition.root.join("documents"));
    let links = [vm.path.join("shared-dirs/tag/dir"), place.partition.root.join("alias")];
    symlink("documents", &links[1]).unwrap();
    // The owners of the directory and of the two links, and whether it may be shared.
    for (owner, first, second, fine) in [
        (1001, 1001, 1001, true),
        (1001, 0, 1001, true),
        (1001, 1002, 1001, false),
        (1001, 0, 1002, false),
        (0, 1002, 1002, true),
    ] {
        chown(&shared, Some(owner), None).unwrap();
        lchown(&links[0], Some(first), None).unwrap();
        lchown(&links[1], Some(second), None).unwrap();
        if fine {
            run(&mut check(&vm.path)).finds_nothing();
        } else {
            refuses(
                &vm,
                "shared-dirs/tag/dir",
                "leads to a directory of user 1001 by a link of user 1002",
                "share a directory of your own",
            );
        }
    }
}

#[test]
fn links_to_directories_are_fine() {
    let place = place();
    for target in ["/ext/documents", "../../../../../documents", "/ext/svc/logs"] {
        let vm = place.share(target);
        run(&mut check(&vm.path)).finds_nothing();
        let _ = vm.without("shared-dirs");
    }
    let vm = place.share("/host/x");
    fs::create_dir(place.root.join("host/x")).unwrap();
    let allow = format!("--allow=/host={}", place.root.join("host").display());
    run(check(&vm.path).arg(allow)).finds_nothing();
    refuses(&vm, "shared-dirs/tag/dir", "leads to '/host/x', outside", "'allow'");
}

#[test]
fn no_dir() {
    let vm = place();
    let vm = vm.vm().directory("shared-dirs/tag");
    refuses(&vm, "shared-dirs/tag/dir", "is missing", "make it a symbolic link");
}

#[test]
fn dir_is_no_link() {
    let place = place();
    let vm = place.vm().directory("shared-dirs/tag/dir");
    refuses(&vm, "shared-dirs/tag/dir", "is not a symbolic link", "make it a symbolic link");
    let vm = vm.without("shared-dirs/tag/dir").file("shared-dirs/tag/dir", b"/ext/documents");
    refuses(&vm, "shared-dirs/tag/dir", "is not a symbolic link", "make it a symbolic link");
    let vm = vm.without("shared-dirs/tag/dir").fifo("shared-dirs/tag/dir");
    refuses(&vm, "shared-dirs/tag/dir", "is not a symbolic link", "make it a symbolic link");
}

#[test]
fn links_to_other_things() {
    let place = place();
    let entry = "shared-dirs/tag/dir";
    fs::write(place.root.join("partition/file"), "").unwrap();
    crate::support::vm_directory::make_fifo(&place.root.join("partition/pipe"));
    for (target, cause) in [
        ("/ext/file", "leads to a regular file, not a directory"),
        ("/ext/pipe", "leads to a named pipe, not a directory"),
        ("/ext/none", "does not exist"),
        ("dir", "follows more than 40 links"),
        ("/", "leads to '/', outside"),
        ("/etc", "leads to '/etc', outside"),
        ("../../../../../..", "outside"),
    ] {
        let vm = place.share(target);
        refuses(&vm, entry, cause, "");
        let _ = vm.without("shared-dirs");
    }
}

#[test]
fn tags_have_at_most_36_bytes() {
    let place = place();
    let vm = place.vm().share("t".repeat(36), "/ext/documents").share("ü".repeat(18), "/ext/documents");
    run(&mut check(&vm.path)).finds_nothing();
    let longer = "t".repeat(37);
    let vm = vm.without("shared-dirs").share(&longer, "/ext/documents");
    let cause = "the tag has 37 bytes; a virtio-fs tag has at most 36";
    refuses(&vm, &format!("shared-dirs/{longer}"), cause, "shorter");
    let longer = format!("{}t", "ü".repeat(18));
    let vm = vm.without("shared-dirs").share(&longer, "/ext/documents");
    refuses(&vm, &format!("shared-dirs/{longer}"), cause, "shorter");
}

#[test]
fn shared_dirs_and_tags_are_directories() {
    let place = place();
    let vm = place.vm().file("shared-dirs", b"");
    refuses(&vm, "shared-dirs", "is a regular file, not a directory", "replace it by a directory");
    let vm = vm.without("shared-dirs").directory("shared-dirs").file("shared-dirs/tag", b"");
    refuses(&vm, "shared-dirs/tag", "is a regular file, not a directory", "replace it by a directory");
}

#[test]
fn the_definitions_themselves() {
    let place = place();
    for target in [
        // Is svc/data, contains it, the whole partition, lies within it.
        "/ext/svc/data",
        "/ext/svc",
        "/ext",
        "/ext/.",
        "/ext/svc/data/other",
        "/ext/svc/data/other/blk",
        "../../../../data",
        "../../..",
        "../../../../..",
    ] {
        let vm = place.share(target);
        exposes(run(&mut check(&vm.path)), &vm);
        let _ = vm.without("shared-dirs");
    }
}

#[test]
fn the_definitions_by_another_name() {
    let place = place();
    let partition = &place.partition.root;
    symlink("svc", partition.join("alias")).unwrap();
    symlink("alias/data/other", partition.join("second")).unwrap();
    for target in ["/ext/alias", "/ext/second", "/ext/second/blk"] {
        let vm = place.share(target);
        exposes(run(&mut check(&vm.path)), &vm);
        let _ = vm.without("shared-dirs");
    }
    // An allowed place that holds the partition, or another one.
    let vm = place.share("/all");
    let allow = |directory: &Path| format!("--allow=/all={}", directory.display());
    exposes(run(check(&vm.path).arg(allow(&place.root))), &vm);
    exposes(run(check(&vm.path).arg(allow(partition))), &vm);
    let second = Partition::at(&place.root.join("second"));
    exposes(run(check(&vm.path).arg(allow(&second.root))), &vm);
    exposes(run(check(&vm.path).arg(allow(&second.root.join("svc/data")))), &vm);
}

#[test]
fn the_vm_directory_itself_wherever_it_is() {
    let (_guard, root) = workplace();
    fs::create_dir_all(root.join("vms/shared")).unwrap();
    let vm = |target: &str| {
        let vm = VmDirectory::at(&root.join("vms/vm")).without("shared-dirs").image("root.img", b"");
        vm.share("tag", target)
    };
    let checked = |vm: &VmDirectory| run(check(&vm.path).arg("--user-partition").arg(&root));
    for target in ["/ext/vms", "/ext/vms/vm", "/ext/vms/vm/blk", "/ext/vms/vm/shared-dirs", "/ext"] {
        let vm = vm(target);
        exposes(checked(&vm), &vm);
    }
    checked(&vm("/ext/vms/shared")).finds_nothing();
    // A partition of its own: the directory may hold the shared one, but not be it.
    let vm = vm("/ext");
    exposes(run(&mut check(&vm.path)), &vm);
    let vm = vm.without("shared-dirs").share("tag", "../../blk");
    exposes(run(&mut check(&vm.path)), &vm);
}

#[test]
fn a_share_that_holds_an_image() {
    let place = place();
    fs::write(place.root.join("partition/documents/root.img"), root_image()).unwrap();
    let vm = place.share("/ext/documents").link("blk/root.img", "/ext/documents/root.img");
    refuses(
        &vm,
        "shared-dirs/tag/dir",
        "which contains a directory on the path to blk/root.img",
        "away from",
    );
}

#[test]
fn unknown_entries_get_a_note() {
    let place = place();
    let vm = place.share("/ext/documents").file("shared-dirs/tag/other", b"");
    let path = vm.path.join("shared-dirs/tag/other");
    run(&mut check(&vm.path)).has_one_note(&path, "is ignored", "remove it");
}

#[test]
fn as_many_as_a_vm_can_have() {
    let place = place();
    let vm = (0..8).fold(place.vm(), |vm, number| vm.share(format!("{number}"), "/ext/documents"));
    run(&mut check(&vm.path)).finds_nothing();
    let vm = vm.share("8", "/ext/documents");
    refuses(&vm, "shared-dirs", "holds 9 shared directories; a VM can have 8", "remove some");
}
