// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `blk/*.img` of [a VM directory](../../docs/vm-directory.md), and where their links may lead.

use std::fs;
use std::path::Path;

use crate::support::program::{Ran, check, run};
use crate::support::vm_directory::{Partition, VmDirectory, make_fifo, root_image, workplace};

fn vm(root: &Path) -> VmDirectory {
    Partition::at(&root.join("partition")).vm("vm")
}

#[track_caller]
fn refuses(change: impl FnOnce(VmDirectory) -> VmDirectory, entry: &str, cause: &str, help: &str) {
    let (_guard, root) = workplace();
    let vm = change(vm(&root));
    run(&mut check(&vm.path)).has_one_error(&vm.path.join(entry), cause, help);
}

#[track_caller]
fn refuses_link(target: impl AsRef<Path>, cause: &str, help: &str) {
    refuses(|vm| vm.image_link("x.img", target), "blk/x.img", cause, help);
}

#[test]
fn no_blk() {
    refuses(|vm| vm.without("blk"), "blk", "does not exist", "create it");
    refuses(
        |vm| vm.without("blk").file("blk", b""),
        "blk",
        "is a regular file, not a directory",
        "replace it",
    );
    refuses(|vm| vm.without("blk").fifo("blk"), "blk", "is a named pipe, not a directory", "replace it");
}

#[test]
fn no_image() {
    refuses(|vm| vm, "blk", "holds no disk image", "at least one raw disk image");
}

#[test]
fn other_files_get_a_note() {
    let (_guard, root) = workplace();
    let vm = vm(&root).image("root.img", b"").image("root.qcow2", b"");
    run(&mut check(&vm.path)).has_one_note(&vm.path.join("blk/root.qcow2"), "is ignored", "correct its name");
    // Alone it is no image.
    let vm = vm.without("blk/root.img");
    let ran = run(&mut check(&vm.path)).exits(1);
    let severities: Vec<_> = ran.problems().into_iter().map(|p| p.severity).collect();
    assert_eq!(severities, ["error", "note"]);
}

#[test]
fn what_looks_like_another_format_gets_a_note() {
    let (_guard, root) = workplace();
    let vm = vm(&root).image("root.img", b"QFI\xfb\0\0\0\x03");
    run(&mut check(&vm.path)).has_one_note(&vm.path.join("blk/root.img"), "QCOW2", "qemu-img convert");
}

#[test]
fn not_a_regular_file() {
    let help = "a raw disk image";
    refuses(|vm| vm.directory("blk/x.img"), "blk/x.img", "is a directory, not a regular file", help);
    refuses(|vm| vm.fifo("blk/x.img"), "blk/x.img", "is a named pipe, not a regular file", help);
    let socket = |vm: VmDirectory| {
        std::os::unix::net::UnixListener::bind(vm.path.join("blk/x.img")).unwrap();
        vm
    };
    refuses(socket, "blk/x.img", "is a socket, not a regular file", help);
}

#[test]
fn links_to_devices() {
    for device in ["/dev/sda", "/dev/null", "/dev/stdin", "/proc/self/exe", "/proc/self/fd/0"] {
        refuses_link(device, &format!("leads to '{device}', outside"), "'allow'");
    }
}

#[test]
fn a_device_beneath_an_allowed_prefix() {
    let (_guard, root) = workplace();
    let vm = vm(&root).image_link("x.img", "/dev/null");
    let path = vm.path.join("blk/x.img");
    let ran = run(check(&vm.path).args(["--allow", "/dev"]));
    ran.has_one_error(&path, "leads to a character device, not a regular file", "a raw disk image");
}

#[test]
fn links_to_nothing() {
    refuses_link("nowhere", "blk/nowhere does not exist", "correct the link");
    refuses_link("/ext/nowhere/x.img", "nowhere does not exist", "correct the link");
    refuses_link("../vmlinux/x.img", "vmlinux is not a directory", "correct the path");
}

#[test]
fn links_in_a_circle() {
    refuses_link("x.img", "follows more than 40 links", "lead to a file");
    refuses_link("/ext/svc/data/vm/blk/x.img", "follows more than 40 links", "lead to a file");
    let two = |vm: VmDirectory| vm.link("blk/other", "x.img").image_link("x.img", "other");
    let (_guard, root) = workplace();
    let vm = two(vm(&root));
    let ran = run(&mut check(&vm.path)).exits(1);
    assert!(ran.stdout.contains("blk/x.img: follows more than 40 links"), "{}", ran.stdout);
}

#[test]
fn dots_out_of_the_partition() {
    let target = "../../../../../outside.img";
    refuses_link(target, &format!("leads to '{target}', outside"), "put the target on the user partition");
    refuses_link("/ext/../outside.img", "leads to '/ext/../outside.img', outside", "'allow'");
    refuses_link("../../../../../../../../../../../../etc/passwd", "outside", "'allow'");
}

#[test]
fn prefixes_end_at_a_slash() {
    refuses_link("/extra/x.img", "leads to '/extra/x.img', outside", "'allow'");
    refuses_link("/nix/storehouse/x.img", "outside", "'allow'");
}

#[test]
fn links_within_the_partition() {
    let (_guard, root) = workplace();
    let vm = vm(&root);
    let partition = root.join("partition");
    fs::create_dir(partition.join("images")).unwrap();
    fs::write(partition.join("images/root.img"), root_image()).unwrap();
    // Absolute, as Spectrum sees it and as this host does; relative; one after the other.
    let vm = vm
        .image_link("a.img", "/ext/images/root.img")
        .image_link("b.img", partition.join("images/root.img"))
        .image_link("c.img", "../../../../images/root.img")
        .image_link("d.img", "a.img");
    run(&mut check(&vm.path)).finds_nothing();
}

#[test]
fn links_that_leave_by_a_second_link() {
    let (_guard, root) = workplace();
    fs::write(root.join("outside.img"), "").unwrap();
    let vm = vm(&root).image_link("x.img", "/ext/images/x.img");
    std::os::unix::fs::symlink(&root, root.join("partition/images")).unwrap();
    let cause =
        format!("the link {}/partition/images leads to '{}', outside", root.display(), root.display());
    run(&mut check(&vm.path)).has_one_error(&vm.path.join("blk/x.img"), &cause, "'allow'");
}

#[test]
fn links_to_a_named_pipe() {
    let (_guard, root) = workplace();
    let vm = vm(&root).image_link("x.img", "/ext/pipe");
    make_fifo(&root.join("partition/pipe"));
    let path = vm.path.join("blk/x.img");
    run(&mut check(&vm.path)).has_one_error(
        &path,
        "leads to a named pipe, not a regular file",
        "a raw disk image",
    );
}

/// Spectrum's built-in layout, with `--allow` as given.
fn check_builtin(allow: impl Fn(&Path) -> Vec<String>, target: impl Fn(&Path) -> String) -> (Ran, String) {
    let (_guard, root) = workplace();
    fs::create_dir_all(root.join("host/img")).unwrap();
    fs::write(root.join("host/img/root.img"), root_image()).unwrap();
    fs::write(root.join("host/outside.img"), "").unwrap();
    let vm = vm(&root).image_link("x.img", target(&root));
    let mut command = check(&vm.path);
    command.args(allow(&root).iter().map(|allow| format!("--allow={allow}")));
    (run(&mut command), vm.path.join("blk/x.img").to_str().unwrap().to_owned())
}

#[test]
fn an_allowed_prefix_that_is_elsewhere_on_this_host() {
    let allow = |root: &Path| vec![format!("/usr/img={}/host/img", root.display())];
    check_builtin(allow, |_| "/usr/img/root.img".into()).0.finds_nothing();
    for (target, cause) in [
        ("/usr/img/../outside.img", "outside of the places"),
        ("/usr/image/root.img", "outside of the places"),
        ("/usr/img/none.img", "host/img/none.img does not exist"),
    ] {
        let (ran, path) = check_builtin(allow, |_| target.into());
        ran.has_one_error(Path::new(&path), cause, "");
    }
    let (ran, path) = check_builtin(|_| Vec::new(), |_| "/usr/img/root.img".into());
    ran.has_one_error(Path::new(&path), "leads to '/usr/img/root.img', outside", "'allow'");
}

#[test]
fn an_allowed_prefix_that_is_itself() {
    let allow = |root: &Path| vec![format!("{}/host/img", root.display())];
    check_builtin(allow, |root| format!("{}/host/img/root.img", root.display())).0.finds_nothing();
    let (ran, path) = check_builtin(allow, |root| format!("{}/host/outside.img", root.display()));
    ran.has_one_error(Path::new(&path), "outside of the places", "");
}

#[test]
fn the_longest_of_several_allowed_prefixes_counts() {
    let allow = |root: &Path| {
        let root = root.display();
        vec![
            format!("/usr={root}/partition"),
            format!("/usr/img={root}/host/img"),
            "/usr/img/deeper=/none".into(),
        ]
    };
    check_builtin(allow, |_| "/usr/img/root.img".into()).0.finds_nothing();
}

#[test]
fn as_many_as_a_vm_can_have() {
    let with = |count: usize| {
        let (_guard, root) = workplace();
        let vm = (0..count).fold(vm(&root), |vm, number| vm.image(format!("{number}.img"), b""));
        (run(&mut check(&vm.path)), vm.path.join("blk"))
    };
    with(12).0.finds_nothing();
    let (ran, path) = with(13);
    ran.has_one_error(&path, "holds 13 disk images; a VM can have 12", "remove some");
}

#[test]
fn names_that_cannot_be_told_a_hypervisor() {
    use std::os::unix::ffi::OsStrExt as _;
    let (_guard, root) = workplace();
    let name = std::ffi::OsStr::from_bytes(b"\xff\x1b[31m.img");
    let vm = vm(&root).image(name, b"").image("\u{ffff}.img", b"");
    let ran = run(&mut check(&vm.path)).exits(1);
    let problems = ran.problems();
    assert_eq!(problems.len(), 2, "{}", ran.stdout);
    assert!(ran.stdout.contains("blk/\\xff\\u{1b}[31m.img: the image's name is not UTF-8"), "{}", ran.stdout);
    assert!(ran.stdout.contains("contains U+FFFF"), "{}", ran.stdout);
}
