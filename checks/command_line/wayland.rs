// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs with windows: which QEMU can show them, and how much address space they get.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::program::{build, call, parse, run};
use crate::support::vm_directory::{Partition, VmDirectory, workplace};
use crate::sync_host::{Host, host};

/// What stands in for QEMU: it notes each call, and lists this device.
fn qemu(root: &Path, device: &str) -> PathBuf {
    let path = root.join(device);
    let text =
        format!("#!/bin/sh\necho \"$*\" >>'{}/asked'\necho 'name \"{device}\", bus PCI'\n", root.display());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What the stand-ins were asked.
fn asked(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("asked")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

const DEVICE: &str = "virtio-gpu-rutabaga-pci";
const QUESTION: &str = "-no-user-config -device help";

fn vm(root: &Path) -> VmDirectory {
    Partition::at(&root.join("partition")).vm("windows").image("root.img", b"")
}

#[test]
fn build_asks_qemu_whether_it_has_the_device() {
    let (_guard, root) = workplace();
    let vm = vm(&root);
    let build = |qemu: &Path, output: &str| {
        let mut command = build(&vm.path, &root.join(output), "qemu");
        run(command.arg("--tool").arg(format!("qemu-system-x86_64={}", qemu.display())))
    };
    let (with, without) = (qemu(&root, DEVICE), qemu(&root, "virtio-gpu-pci"));
    build(&without, "no-windows").exits(0).says_nothing();
    assert_eq!(asked(&root), [""; 0]);
    fs::write(vm.path.join("wayland"), "").unwrap();
    build(&with, "with").exits(0).says_nothing();
    let refused = build(&without, "without").exits(1);
    assert_eq!(asked(&root), [QUESTION; 2]);
    let (problems, _) = parse(&refused.stderr);
    let [only] = problems.as_slice() else { panic!("not one problem:\n{}", refused.stderr) };
    assert!(only.text.starts_with(vm.path.join("wayland").to_str().unwrap()), "{only:?}");
    assert!(only.text.contains("is built without the device virtio-gpu-rutabaga-pci"), "{only:?}");
    assert!(only.help.contains("package qemu of Nixpkgs is and Debian's is not"), "{only:?}");
    // One that is only on the host that runs the VM.
    build(Path::new("/nonexistent/qemu"), "elsewhere").exits(0).says_nothing();
}

fn configure(host: &Host, qemu: &Path, more: &str) {
    host.configure(&format!("[defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\n{more}"));
    let text = fs::read_to_string(&host.config).unwrap();
    let text = text.replace("/usr/bin/qemu-system-x86_64", qemu.to_str().unwrap());
    fs::write(&host.config, text).unwrap();
}

#[test]
fn sync_asks_once_and_only_for_vms_with_windows() {
    let host = host();
    let (with, without) = (qemu(&host.root, DEVICE), qemu(&host.root, "virtio-gpu-pci"));
    host.vm("plain");
    configure(&host, &without, "");
    host.synced();
    assert_eq!(asked(&host.root), [""; 0]);
    for name in ["a", "b"] {
        host.vm(name).file("wayland", b"");
    }
    let refused = run(&mut host.sync()).exits(1);
    refused.complains(&["svc/data/a/wayland: ", "svc/data/b/wayland: ", "is built without the device"]);
    assert_eq!(asked(&host.root), [QUESTION]);
    assert_eq!(host.in_catalog("user/a")["state"], "broken");
    assert_eq!(host.in_catalog("user/plain")["state"], "runnable");
    configure(&host, &with, "wayland-memory = 64\n[vm.b]\nwayland-memory = 1024\n");
    host.synced();
    assert_eq!(asked(&host.root), [QUESTION; 2]);
    let memory = |id: &str| {
        let path = host.package(id).join("share/microvm-spectrum/manifest.json");
        let manifest: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        manifest["wayland"]["memory_mib"].as_u64()
    };
    assert_eq!((memory("user/a"), memory("user/b"), memory("user/plain")), (Some(64), Some(1024), None));
}

#[test]
fn address_space_is_a_power_of_two_in_its_range() {
    let (_guard, root) = workplace();
    let vm = vm(&root).file("wayland", b"");
    let build = |memory: &str| {
        let mut command = build(&vm.path, &root.join("out"), "qemu");
        run(command.args([
            "--force",
            "--tool",
            "qemu-system-x86_64=/nonexistent",
            "--wayland-memory",
            memory,
        ]))
    };
    let host = host();
    host.vm("a");
    for memory in ["0", "3", "255", "16384", "4294967295"] {
        let cause = format!("cannot have {memory} MiB for the buffers of windows (wayland-memory)");
        build(memory).exits(1).complains(&[&cause, "choose a power of two, at most 8192 MiB"]);
        host.configure(&format!("[defaults]\nwayland-memory = {memory}\n"));
        run(&mut host.sync()).exits(1).complains(&[&cause]);
        run(call(["check-config"]).arg(&host.config)).exits(2).complains(&[&format!("[defaults] {cause}")]);
    }
    build("-1").exits(2);
    for memory in ["1", "256", "8192"] {
        build(memory).exits(0).says_nothing();
    }
}

#[test]
fn the_device_takes_a_slot_of_the_bus() {
    let (_guard, root) = workplace();
    fs::create_dir_all(root.join("partition/shared")).unwrap();
    let mut vm = vm(&root);
    for n in 1..12 {
        vm = vm.image(format!("{n}.img"), b"");
    }
    for n in 0..4 {
        vm = vm.provider(&format!("netvm-{n}"));
    }
    for n in 0..8 {
        vm = vm.share(n.to_string(), "/ext/shared");
    }
    let build = |ports: u8| {
        let mut command = build(&vm.path, &root.join("out"), "qemu");
        let tool = "qemu-system-x86_64=/nonexistent";
        run(command.args(["--force", "--tool", tool]).arg(format!("--link-ports={ports}")))
    };
    build(24).exits(0).says_nothing();
    fs::write(vm.path.join("wayland"), "").unwrap();
    build(16).exits(0).says_nothing();
    build(17)
        .exits(1)
        .complains(&["qemu has no room for 17 ports for clients besides the VM's other devices"]);
}
