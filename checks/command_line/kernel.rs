// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `vmlinux` of [a VM directory](../../docs/vm-directory.md).

use crate::support::program::{check, run};
use crate::support::vm_directory::{Partition, VmDirectory, elf_header, workplace};

#[track_caller]
fn refuses(change: impl FnOnce(VmDirectory) -> VmDirectory, cause: &str, help: &str) {
    let (_guard, root) = workplace();
    let vm = change(Partition::at(&root).vm("vm").image("root.img", b""));
    run(&mut check(&vm.path)).has_one_error(&vm.path.join("vmlinux"), cause, help);
}

#[test]
fn missing() {
    refuses(|vm| vm.without("vmlinux"), "does not exist", "create it");
}

#[test]
fn a_directory() {
    refuses(
        |vm| vm.without("vmlinux").directory("vmlinux"),
        "is a directory, not a regular file",
        "uncompressed Linux kernel",
    );
}

#[test]
fn a_named_pipe() {
    let cause = "a named pipe, not a regular file";
    refuses(|vm| vm.without("vmlinux").fifo("vmlinux"), cause, "uncompressed Linux kernel");
    let linked = |vm: VmDirectory| vm.fifo("../../pipe").link("vmlinux", "/ext/svc/pipe");
    refuses(linked, cause, "uncompressed Linux kernel");
}

#[test]
fn a_link_to_a_device() {
    refuses(|vm| vm.link("vmlinux", "/dev/zero"), "leads to '/dev/zero', outside", "'allow'");
}

#[test]
fn a_bzimage() {
    let mut image = vec![0; 4096];
    image[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    image[0x202..0x206].copy_from_slice(b"HdrS");
    refuses(|vm| vm.kernel(&image), "is a bzImage", "extract-vmlinux bzImage > vmlinux");
}

#[test]
fn compressed() {
    refuses(|vm| vm.kernel(b"\x1f\x8b\x08\0"), "is compressed with gzip", "gzip -dc");
    refuses(|vm| vm.kernel(b"\xfd7zXZ\0"), "is compressed with xz", "decompress it");
    refuses(|vm| vm.kernel(b"\x28\xb5\x2f\xfd"), "is compressed with zstd", "decompress it");
}

#[test]
fn for_another_architecture() {
    let mut kernel = elf_header();
    // The one that this host has not.
    let (machine, found) = if cfg!(target_arch = "x86_64") { (183, "aarch64") } else { (62, "x86_64") };
    kernel[18] = machine;
    let cause = format!("is a kernel for {found}, this VM needs one for {}", std::env::consts::ARCH);
    refuses(|vm| vm.kernel(&kernel), &cause, "architecture");
    kernel[18] = 8;
    refuses(|vm| vm.kernel(&kernel), "is a kernel for ELF machine 8", "architecture");
}

#[test]
fn for_32_bits() {
    let mut kernel = elf_header();
    kernel[4] = 1;
    kernel[18] = 3;
    refuses(|vm| vm.kernel(&kernel), "is a kernel for a 32-bit machine", "architecture");
}

#[test]
fn an_arm64_image_where_only_elf_boots() {
    let mut kernel = vec![0; 64];
    kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
    refuses(|vm| vm.kernel(&kernel), "is an arm64 Image", "architecture");
}

#[test]
fn neither_format() {
    for content in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02\x02\x01"] {
        refuses(|vm| vm.kernel(content), "is neither an ELF file nor an arm64 Image", "vmlinux");
    }
}
