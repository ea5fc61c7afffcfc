// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The entry of an x86_64 kernel that both hypervisors jump to.

use super::parts::{Part, Parts, Unread};

/// The most program headers that are read; a kernel has fewer than ten.
const MAX_HEADERS: u64 = 64;
/// The size of a program header, in bytes.
const HEADER_BYTES: usize = 56;
/// How much of a segment with notes is read, in bytes; a kernel's has a few hundred.
const MAX_NOTES: u64 = 64 << 10;
/// The type of such a segment.
const PT_NOTE: u64 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`, in Xen's `elfnote.h`.
const PHYS32_ENTRY: u64 = 18;

/// Whether a 64-bit ELF file, which has the low bytes first, has the PVH entry's note:
/// QEMU (`hw/i386/x86-common.c`) and Cloud Hypervisor (`linux-loader`) boot no other.
///
/// Source: the ELF header, program headers and notes of the System V ABI.
pub(super) fn has_entry(kernel: &Parts) -> Result<bool, Unread> {
    let head = kernel.read(0, 64)?;
    let (Some(offset), Some(count)) = (head.number(32, 8), head.number(56, 2)) else {
        return Ok(false);
    };
    let count = usize::try_from(count.min(MAX_HEADERS)).unwrap_or_default();
    let headers = kernel.read(offset, count.saturating_mul(HEADER_BYTES))?;
    for header in headers.0.chunks_exact(HEADER_BYTES) {
        let header = Part(header.to_vec());
        let number = |at, length| header.number(at, length).unwrap_or_default();
        if number(0, 4) != PT_NOTE {
            continue;
        }
        let length = usize::try_from(number(32, 8).min(MAX_NOTES)).unwrap_or_default();
        let notes = kernel.read(number(8, 8), length)?;
        // Those who read notes differ in what they take for the alignment.
        if [4, 8].iter().any(|alignment| has_note(&notes, *alignment)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_note(notes: &Part, alignment: usize) -> bool {
    let mut at = 0_usize;
    let number = |at| notes.number(at, 4).and_then(|number| usize::try_from(number).ok());
    let note = |at: usize| {
        let (name, content) = (number(at)?, number(at.checked_add(4)?)?);
        let found =
            notes.number(at.checked_add(8)?, 4)? == PHYS32_ENTRY && notes.has(at.checked_add(12)?, b"Xen\0");
        let name_end = at.checked_add(12)?.checked_add(name.checked_next_multiple_of(alignment)?)?;
        let end = name_end.checked_add(content.checked_next_multiple_of(alignment)?)?;
        Some((found && name == 4 && content >= 4 && notes.bytes(name_end, content).is_some(), end))
    };
    while let Some((found, end)) = note(at) {
        if found {
            return true;
        }
        at = end;
    }
    false
}
