// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Kernels: the first kilobyte of a file decides, and only what boots is taken.

use std::fs;

use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::base::problem::Severity;
use microvm_spectrum::directory::definition::{self, Location};

use crate::mutation::bytes;
use crate::support::vm_directory::{Partition, elf_header, workplace};
use crate::{attack, ensure, ensure_printable};

/// A kilobyte with this in it.
fn head(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut head = vec![0; 1024];
    for (at, bytes) in parts {
        head[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    head
}

#[test]
fn heads() {
    let (_directory, path) = workplace();
    let vm = Partition::at(&path).vm("vm").image("root.img", b"");
    let location = Location::find(&vm.path, None, &[]).unwrap();
    let elf = elf_header();
    let machine = |class: u8, order: u8, machine: u8| {
        head(&[(0, b"\x7fELF"), (4, &[class, order, 1]), (18, &[machine, 0])])
    };
    let corpus = [
        elf.clone(),
        elf,
        machine(2, 1, 183),
        machine(1, 1, 3),
        machine(2, 2, 62),
        head(&[(0x38, b"ARM\x64")]),
        head(&[(0, b"MZ"), (0x38, b"ARM\x64")]),
        head(&[(0x1fe, b"\x55\xaa"), (0x202, b"HdrS")]),
        b"\x1f\x8b\x08".to_vec(),
        b"\xfd7zXZ\0".to_vec(),
        b"\x28\xb5\x2f\xfd".to_vec(),
        Vec::new(),
    ];
    attack(
        "kernel heads",
        4,
        |random| bytes(random, &corpus),
        |given| {
            fs::write(vm.path.join("vmlinux"), &given.0).unwrap();
            let at = |offset: usize, bytes: &[u8]| {
                given.0.get(offset..).is_some_and(|rest| rest.starts_with(bytes))
            };
            // System V ABI: 64 bits, the low byte first, then the machine.
            let elf = |machine: u8| at(0, b"\x7fELF\x02\x01") && at(18, &[machine, 0]);
            let image = !at(0, b"\x7fELF") && at(0x38, b"ARM\x64");
            let mut accepted = false;
            for (architecture, boots) in
                [(Architecture::X86_64, elf(62)), (Architecture::Aarch64, elf(183) || image)]
            {
                let reading = definition::read(&location, architecture);
                ensure(reading.definition.is_some() == boots, || {
                    format!("{architecture:?}: boots is {boots}")
                })?;
                let problems = reading.problems.into_sorted();
                problems.iter().try_for_each(|problem| ensure_printable(&problem.to_string()))?;
                let blamed =
                    problems.iter().any(|p| p.severity == Severity::Error && p.path.ends_with("vmlinux"));
                ensure(blamed != boots, || format!("{problems:?}"))?;
                accepted |= boots;
            }
            Ok(accepted)
        },
    );
}
