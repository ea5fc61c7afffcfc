// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The VM directories whose packages are compared.

use std::fs;
use std::path::Path;

use crate::package_files::{self, Case};
use crate::support::vm_directory::{Partition, VmDirectory, elf_header, workplace};

/// Every case has its folder in `packages/`, and every folder its case.
pub const NAMES: [&str; 8] = [
    "appvm-lynx",
    "builtin",
    "hostile-names",
    "newer-version",
    "newer-version-wayland",
    "older-version",
    "pci-devices",
    "uplink",
];

fn partition(root: &Path) -> Partition {
    Partition::at(&root.join("partition"))
}

/// The example of Spectrum's "Creating Custom VMs".
#[test]
fn appvm_lynx() {
    let (_guard, root) = workplace();
    let vm = partition(&root).vm("appvm-lynx").image("root.img", b"root").provider("netvm");
    package_files::packages_match(&Case { name: "appvm-lynx", root: &root, vm: &vm, options: &[] });
}

/// The version of the VM directory without `shared-dirs` and `wayland`.
#[test]
fn older_version() {
    let (_guard, root) = workplace();
    let vm = partition(&root).vm("older").image("root.img", b"root").image("data.img", b"data");
    package_files::packages_match(&Case { name: "older-version", root: &root, vm: &vm, options: &[] });
}

fn newer_version(root: &Path) -> VmDirectory {
    let partition = partition(root);
    fs::create_dir_all(partition.root.join("shares/documents")).unwrap();
    fs::create_dir_all(partition.root.join("shares/Größe, \"50 %\" = [x]")).unwrap();
    partition
        .vm("newer")
        .image("root.img", b"root")
        .provider("netvm")
        .provider("sys.vpn-2")
        .share("documents", "/ext/shares/documents")
        .share("a b,c=\"d\" 50% ü", "../../../../../shares/Größe, \"50 %\" = [x]")
}

/// The version with `shared-dirs`.
#[test]
fn newer_version_with_shares() {
    let (_guard, root) = workplace();
    let vm = newer_version(&root);
    package_files::packages_match(&Case { name: "newer-version", root: &root, vm: &vm, options: &[] });
}

/// The version with `wayland`, for a QEMU that is not on this host; Cloud Hypervisor shows no windows.
#[test]
fn newer_version_with_wayland() {
    let (_guard, root) = workplace();
    let vm = newer_version(&root).file("wayland", b"");
    let options = ["--tool=qemu-system-x86_64=/opt/elsewhere/qemu-system-x86_64", "--wayland-memory=512"];
    let case = Case { name: "newer-version-wayland", root: &root, vm: &vm, options: &options };
    package_files::package_matches(&case, "qemu");
    package_files::error_matches(&case, "cloud-hypervisor");
}

/// Spectrum's own VMs share what lies below `/usr/img`.
#[test]
fn builtin() {
    let (_guard, root) = workplace();
    let images = root.join("host/img/appvm");
    fs::create_dir_all(images.join("blk")).unwrap();
    fs::write(images.join("vmlinux"), elf_header()).unwrap();
    fs::write(images.join("blk/root.img"), "root").unwrap();
    let vm = VmDirectory::at(&root.join("host/vm/appvm-firefox"))
        .link("vmlinux", "/usr/img/appvm/vmlinux")
        .link("blk/root.img", "/usr/img/appvm/blk/root.img")
        .provider("netvm");
    let allow = format!("--allow=/usr/img={}", root.join("host/img").display());
    package_files::packages_match(&Case { name: "builtin", root: &root, vm: &vm, options: &[&allow] });
}

/// Devices of the host, which the administrator gives and no directory.
#[test]
fn pci_devices() {
    let (_guard, root) = workplace();
    let vm = partition(&root).vm("netvm").image("root.img", b"root");
    let options = ["--device=0000:01:00.0", "--device=0000:41:1f.7", "--link-ports=7"];
    package_files::packages_match(&Case { name: "pci-devices", root: &root, vm: &vm, options: &options });
}

/// A connection to the host's network, which the administrator gives and no directory. The passt is
/// not on this host.
#[test]
fn uplink() {
    let (_guard, root) = workplace();
    let vm = partition(&root).vm("netvm").image("root.img", b"root");
    let options = [
        "--tool=passt=/opt/elsewhere/passt",
        "--uplink",
        "--port=127.0.0.1:8080:80",
        "--port=0.0.0.0:53:5353/udp",
    ];
    package_files::packages_match(&Case { name: "uplink", root: &root, vm: &vm, options: &options });
}

/// Names that mean something to a shell or to an option parser.
#[test]
fn hostile_names() {
    let (_guard, root) = workplace();
    let partition = partition(&root);
    let kernel = "vm linux, \"6.1\"=x\n'y'";
    fs::write(partition.root.join(kernel), elf_header()).unwrap();
    let vm = partition
        .vm("hostile")
        .link("vmlinux", Path::new("/ext").join(kernel))
        .image("a b.img", b"")
        .image("c,readonly=off,d=\"e\".img", b"")
        .image("'q' \\ $(x) `y` %n [1].img", b"")
        .image("line\nfeed.img", b"")
        .image("-drive.img", b"")
        .image("ü\u{1b}[2J.img", b"");
    package_files::packages_match(&Case { name: "hostile-names", root: &root, vm: &vm, options: &[] });
}
