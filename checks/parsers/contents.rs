// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What lies inside kernels and images: ELF notes, partition tables, configurations.

use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::directory::definition::{Location, Scan};

use crate::mutation::bytes;
use crate::support::random::Random;
use crate::support::vm_directory::{Partition, disk, elf_header, root_image, workplace};
use crate::{attack, ensure, ensure_printable};

fn kernel_with(config: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(config.as_bytes()).unwrap();
    [elf_header(), b"IKCFG_ST".to_vec(), gzip.finish().unwrap()].concat()
}

/// Corrects the checksums, so that what they protect is looked at.
fn with_checksums(mut image: Vec<u8>) -> Vec<u8> {
    let Some(count) = image.get(592..596) else { return image };
    let count = u32::from_le_bytes(count.try_into().unwrap()) as usize;
    if let Some(entries) = image.get(1024..).and_then(|rest| rest.get(..count.checked_mul(128)?)) {
        let sum = crc32fast::hash(entries).to_le_bytes();
        image[600..604].copy_from_slice(&sum);
    }
    if let Some(header) = image.get(512..604) {
        let mut header = header.to_vec();
        header[16..20].fill(0);
        image[528..532].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    }
    image
}

#[test]
fn kernels_and_images() {
    let (_directory, path) = workplace();
    let vm = Partition::at(&path).vm("vm").image("root.img", b"");
    let location = Location::find(&vm.path, None, &[]).unwrap();
    let full = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\nCONFIG_EFI_PARTITION=y\nCONFIG_SQUASHFS=y\n";
    let kernels = [elf_header(), kernel_with(full), kernel_with("CONFIG_VIRTIO_BLK=m\n")];
    let images = [root_image(), disk(&["a", "root"]), disk(&["root", "\u{1b}\u{202e}"]), vec![0; 2048]];
    attack(
        "insides",
        4,
        |random: &mut Random| {
            let kernel = bytes(random, &kernels);
            let mut image = bytes(random, &images);
            if random.one_in(2) {
                image.0 = with_checksums(image.0);
            }
            (kernel, image)
        },
        |(kernel, image)| {
            fs::write(vm.path.join("vmlinux"), &kernel.0).unwrap();
            fs::write(vm.path.join("blk/root.img"), &image.0).unwrap();
            let inside = Scan::new(Architecture::X86_64).looking_inside().read(&location).problems;
            let outside = Scan::new(Architecture::X86_64).read(&location).problems;
            let found = inside.clone().into_sorted();
            found.iter().try_for_each(|problem| ensure_printable(&problem.to_string()))?;
            // It finds more, never less.
            let kept = outside.into_sorted().into_iter().all(|problem| found.contains(&problem));
            ensure(kept, || format!("{found:?} lacks something"))?;
            Ok(!inside.has_errors())
        },
    );
}
