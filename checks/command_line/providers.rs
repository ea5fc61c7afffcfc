// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `providers/net/<vm>` of [a VM directory](../../docs/vm-directory.md).

use std::path::PathBuf;

use crate::support::program::{build, check, run};
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

fn vm() -> (tempfile::TempDir, VmDirectory) {
    let (guard, root) = workplace();
    (guard, Partition::at(&root).vm("client").image("root.img", b""))
}

fn provider(vm: &VmDirectory, name: &str) -> PathBuf {
    vm.path.join("providers/net").join(name)
}

#[test]
fn any_kind_of_entry_names_a_provider() {
    let (_guard, vm) = vm();
    let vm = vm.provider("netvm").directory("providers/net/sys-net").fifo("providers/net/pipe");
    let vm = vm.link("providers/net/dangling", "/nowhere");
    run(&mut check(&vm.path)).finds_nothing();
}

#[test]
fn names_that_are_none() {
    for (name, cause) in [
        ("-net", "cannot begin with '-'"),
        (".hidden", "cannot begin with '.'"),
        ("a b", "cannot contain the character ' '"),
        ("ü", "cannot contain the character 'ü'"),
    ] {
        let (_guard, vm) = vm();
        let vm = vm.provider("netvm").provider(name);
        let cause = format!("is not the name of a VM: a VM name {cause}");
        run(&mut check(&vm.path)).has_one_error(&provider(&vm, name), &cause, "name the file after the VM");
    }
}

#[test]
fn the_vm_itself() {
    let (_guard, vm) = vm();
    let vm = vm.provider("client");
    let cause = "the VM would provide its own network";
    run(&mut check(&vm.path)).has_one_error(&provider(&vm, "client"), cause, "name another VM");
}

#[test]
fn as_many_as_a_vm_can_have() {
    let (_guard, vm) = vm();
    let vm = vm.provider("a").provider("b").provider("c").provider("d");
    run(&mut check(&vm.path)).finds_nothing();
    let vm = vm.provider("e");
    let cause = "names 5 network providers; a VM can have 4";
    run(&mut check(&vm.path)).has_one_error(&vm.path.join("providers/net"), cause, "remove some");
}

#[test]
fn the_folders_themselves() {
    let (_guard, vm) = vm();
    let vm = vm.file("providers", b"");
    let cause = "is a regular file, not a directory";
    run(&mut check(&vm.path)).has_one_error(&vm.path.join("providers"), cause, "replace it");
    let vm = vm.without("providers").directory("providers").file("providers/net", b"");
    run(&mut check(&vm.path)).has_one_error(&vm.path.join("providers/net"), cause, "replace it");
    let vm = vm.without("providers").directory("providers/audio");
    run(&mut check(&vm.path)).has_one_note(&vm.path.join("providers/audio"), "is ignored", "remove it");
    let vm = vm.without("providers").directory("providers/net");
    run(&mut check(&vm.path)).finds_nothing();
}

#[test]
fn the_id_of_a_link_can_be_chosen() {
    let (_guard, root) = workplace();
    let partition = Partition::at(&root.join("partition"));
    let vm = partition.vm("client").image("root.img", b"").provider("netvm").provider("vpn");
    let output = root.join("out");
    let mut command = build(&vm.path, &output, "qemu");
    run(command.args(["--link", "netvm=a546"])).exits(0);
    let manifest = std::fs::read_to_string(output.join("share/microvm-spectrum/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let link = &manifest["interfaces"][0];
    assert_eq!(
        (&link["link"], &link["tap"], &link["mac"], &link["ipv4"]),
        (&"a546".into(), &"vmc-a546".into(), &"0A:B3:EC:00:A5:46".into(), &"100.64.165.70".into())
    );
    assert_ne!(manifest["interfaces"][1]["link"], "a546");
    let refused = |link: &str, status: i32, text: &str| {
        let mut command = build(&vm.path, &root.join("none"), "qemu");
        run(command.args(["--link", link, "--link", "vpn=0001"])).exits(status).complains(&[text]);
    };
    refused("other=a546", 1, "does not exist, but the link to other was given an id");
    refused("netvm=0001", 1, "two links have the same id");
    for wrong in ["netvm", "netvm=", "netvm=12345", "netvm=0000", "a b=a546"] {
        refused(wrong, 2, "--link");
    }
}
