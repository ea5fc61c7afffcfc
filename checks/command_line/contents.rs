// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What `check` finds inside the kernel and the images of [a VM directory](../../docs/vm-directory.md).

use std::fs::{self, File};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::program::{build, check, run};
use crate::support::vm_directory::{Partition, VmDirectory, disk, elf_header, root_image, workplace};

#[track_caller]
fn finds(
    change: impl FnOnce(VmDirectory) -> VmDirectory,
    (severity, entry): (&str, &str),
    cause: &str,
    help: &str,
) {
    let (_guard, root) = workplace();
    let vm = change(Partition::at(&root).vm("vm").image("root.img", b""));
    let ran = run(&mut check(&vm.path));
    match severity {
        "note" => ran.has_one_note(&vm.path.join(entry), cause, help),
        _ => ran.has_one_error(&vm.path.join(entry), cause, help),
    };
}

/// A kernel with this configuration in it, as `CONFIG_IKCONFIG` puts it there.
fn kernel_with(config: &[u8], at: usize) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(config).unwrap();
    let mut kernel = elf_header();
    kernel.resize(at, 0);
    kernel.extend([b"IKCFG_ST", gzip.finish().unwrap().as_slice(), b"IKCFG_ED"].concat());
    kernel
}

fn config(virtio_blk: &str, squashfs: &str, more: &str) -> String {
    format!(
        "# A comment\nCONFIG_VIRTIO_PCI=y\n{virtio_blk}\nCONFIG_EFI_PARTITION=y\n{squashfs}\n{more}\n\
         CONFIG_SQUASHFS_XATTR=y\n"
    )
}

/// What is no kernel at all: a program for this architecture, such as `/bin/true`.
#[test]
fn a_program_and_nothing_but_zeros() {
    let (_guard, root) = workplace();
    let mut program = elf_header();
    // Notes of another type.
    program[128] = 1;
    let vm =
        Partition::at(&root).vm("vm").kernel(&program).image("a.img", &[0; 4096]).image("b.img", &[0; 9]);
    let ran = run(&mut check(&vm.path)).exits(1);
    let problems = ran.problems();
    assert_eq!(problems.len(), 2, "{}", ran.stdout);
    assert!(problems.iter().all(|problem| problem.severity == "error"));
    assert!(problems[0].text.ends_with("a.img has no GPT; b.img has no GPT"), "{problems:?}");
    assert!(problems[1].text.contains("vmlinux: has no PVH entry"), "{problems:?}");
    assert!(problems[1].help.contains("CONFIG_PVH=y"), "{problems:?}");
    let without = Partition::at(&root).vm("without").without("blk").kernel(&program);
    let ran = run(&mut check(&without.path)).exits(1);
    assert_eq!(ran.problems().len(), 2, "{}", ran.stdout);
    // `build` reads no more than the first kilobyte.
    run(&mut build(&vm.path, &root.join("package"), "qemu")).exits(0);
}

#[test]
fn a_kernel_without_notes() {
    for at in [56, 64, 96, 120, 124, 132] {
        let mut kernel = elf_header();
        kernel[at] = 0;
        finds(|vm| vm.kernel(&kernel), ("error", "vmlinux"), "has no PVH entry", "CONFIG_PVH=y");
    }
}

#[test]
fn the_root_partition_may_be_of_any_image() {
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm("vm").image("a.img", b"data").image("b.img", &disk(&["boot", "root"]));
    let vm = vm.image("c.img", &disk(&["1", "2", "3", "4", "5"]));
    run(&mut check(&vm.path)).finds_nothing();
}

#[test]
fn no_root_partition() {
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut image = root_image();
        change(&mut image);
        image
    };
    let mut ext4 = vec![0; 2048];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let cases = [
        (ext4, "root.img is a file system (ext4) without a partition table"),
        (disk(&["boot", "Root", "\u{1b}[2J"]), "root.img has a GPT with 'boot', 'Root', '![2J'"),
        (disk(&[]), "root.img has a GPT without partitions"),
        (changed(&|image| image[450] = 0x83), "root.img has a GPT without a protective MBR"),
        (changed(&|image| image[1024 + 57] = 1), "root.img has a damaged GPT"),
        (changed(&|image| image[512 + 20] = 1), "root.img has a damaged GPT"),
        (changed(&|image| image.truncate(1536)), "root.img has a GPT for a larger image"),
    ];
    for (image, cause) in cases {
        finds(|vm| vm.image("root.img", &image), ("error", "blk"), cause, "partition with the name 'root'");
    }
}

#[test]
fn a_root_partition_without_a_file_system() {
    let mut image = root_image();
    image.truncate(1536);
    image.resize(2048, 0);
    let change = |vm: VmDirectory| vm.image("root.img", &image);
    finds(change, ("note", "blk/root.img"), "from byte 1536 on, has no known file system", "erofs");
}

#[test]
fn a_kernel_that_says_what_it_lacks() {
    let (blk, squashfs) = ("CONFIG_VIRTIO_BLK=y", "CONFIG_SQUASHFS=y");
    let no_squashfs = "# CONFIG_SQUASHFS is not set";
    let cases = [
        (
            config("CONFIG_VIRTIO_BLK=m", squashfs, ""),
            "no initrd: virtio-blk is a module",
            "with CONFIG_VIRTIO_BLK=y",
        ),
        (config(blk, no_squashfs, ""), "squashfs is missing", "with CONFIG_SQUASHFS=y"),
        (
            config("", "CONFIG_SQUASHFS=m", "CONFIG_INITRAMFS_SOURCE=\"\""),
            "virtio-blk is missing, squashfs is a module",
            "with CONFIG_VIRTIO_BLK=y CONFIG_SQUASHFS=y",
        ),
    ];
    // Also where the mark lies across two of the parts that are read.
    for ((config, cause, help), at) in cases.into_iter().zip([200, (1 << 20) - 4, 1 << 20]) {
        let kernel = kernel_with(config.as_bytes(), at);
        finds(|vm| vm.kernel(&kernel), ("error", "vmlinux"), cause, help);
    }
    // An initramfs of its own can load modules.
    let own = config("CONFIG_VIRTIO_BLK=m", squashfs, "CONFIG_INITRAMFS_SOURCE=\"/x\"");
    let kernel = kernel_with(own.as_bytes(), 300);
    finds(|vm| vm.kernel(&kernel), ("note", "vmlinux"), "virtio-blk is a module", "CONFIG_VIRTIO_BLK=y");
    let (_guard, root) = workplace();
    let vm = Partition::at(&root).vm("vm").image("root.img", b"");
    let vm = vm.kernel(&kernel_with(config(blk, squashfs, "").as_bytes(), 300));
    run(&mut check(&vm.path)).finds_nothing();
}

/// Neither their size nor what they say about it decides how much is read.
#[test]
fn huge_files_are_read_in_part() {
    let (_guard, root) = workplace();
    let bomb = vec![b'\n'; 64 << 20];
    let mut image = root_image();
    // The most entries that fit into the number, at the end of what a number can say.
    image[512 + 72..512 + 88]
        .copy_from_slice(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 128, 0, 0, 0]);
    let mut header = image[512..604].to_vec();
    header[16..20].fill(0);
    image[528..532].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let vm = Partition::at(&root).vm("vm").kernel(&kernel_with(&bomb, 200)).image("root.img", b"");
    run(&mut check(&vm.path)).finds_nothing();
    let vm = vm.kernel(&elf_header()).image("root.img", &image);
    for file in ["vmlinux", "blk/root.img"] {
        File::options().write(true).open(vm.path.join(file)).unwrap().set_len(1 << 40).unwrap();
    }
    run(&mut check(&vm.path)).has_one_error(
        &vm.path.join("blk"),
        "has a GPT that Linux does not read",
        "root",
    );
}

#[test]
fn a_user_partition_is_no_vm_directory() {
    let (_guard, root) = workplace();
    let partition = Partition::at(&root.join("P"));
    let vm = partition.vm("vm").image("root.img", b"");
    let help = format!("name its VM directories: {}/svc/data/*", partition.root.display());
    run(&mut check(&partition.root)).has_one_error(&partition.root, "is a user partition", &help);
    // A VM directory may hold one for its guest.
    fs::create_dir_all(vm.path.join("svc/data")).unwrap();
    run(&mut check(&vm.path)).has_one_note(&vm.path.join("svc"), "is ignored", "remove it");
}
