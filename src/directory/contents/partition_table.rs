// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The partition table of an image, as Linux reads it.

use super::file_system::FileSystem;
use super::parts::{Part, Parts, Unread};

/// The size of a sector of the guest's disks, in bytes.
const SECTOR: u64 = 512;
/// The size of an entry of the table, in bytes; Linux takes no other.
const ENTRY_BYTES: usize = 128;
/// The most bytes of entries that Linux takes.
const MAX_ENTRIES: usize = 4 << 20;
/// The label of the root partition, as the kernel's command line has it.
const ROOT: &str = "root";
/// How many labels of other partitions a problem names.
const MAX_LABELS: usize = 8;

/// Whether an image has the root partition.
#[derive(Debug)]
pub(super) enum Table {
    /// It begins at this byte.
    Root(u64),
    /// It does not, and what it has instead.
    Without(String),
}

/// Looks for the root partition of an image of `length` bytes.
///
/// Sources: the UEFI specification's "GUID Partition Table", and what Linux checks of
/// it (`block/partitions/efi.c`: the copy at the end does not count without `gpt` on
/// the command line).
pub(super) fn read(image: &Parts, length: u64) -> Result<Table, Unread> {
    let without = |what: &str| Ok(Table::Without(what.to_owned()));
    let head = image.read(0, 1024)?;
    if !head.has(512, b"EFI PART") {
        return match FileSystem::at(image, 0)? {
            Some(found) => without(&format!("is a file system ({}) without a partition table", found.name)),
            None => without("has no GPT"),
        };
    }
    if !is_protective(&head) {
        return without("has a GPT without a protective MBR");
    }
    let last = (length / SECTOR).saturating_sub(1);
    let number = |at: usize, length| head.number(512_usize.saturating_add(at), length).unwrap_or_default();
    let header_length = usize::try_from(number(12, 4)).unwrap_or_default();
    let Some(header) = head.bytes(512, header_length).filter(|header| header.len() >= 92) else {
        return without("has a damaged GPT");
    };
    let mut header = header.to_vec();
    header.splice(16..20, [0; 4]);
    if u64::from(crc32fast::hash(&header)) != number(16, 4) || number(24, 8) != 1 {
        return without("has a damaged GPT");
    }
    if number(40, 8).max(number(48, 8)) > last {
        return without("has a GPT for a larger image");
    }
    let count = usize::try_from(number(80, 4)).unwrap_or_default();
    let Some(bytes) = count.checked_mul(ENTRY_BYTES).filter(|bytes| *bytes <= MAX_ENTRIES) else {
        return without("has a GPT that Linux does not read");
    };
    if number(84, 4) != ENTRY_BYTES as u64 {
        return without("has a GPT that Linux does not read");
    }
    let entries = image.read(number(72, 8).saturating_mul(SECTOR), bytes)?;
    if entries.0.len() != bytes || u64::from(crc32fast::hash(&entries.0)) != number(88, 4) {
        return without("has a damaged GPT");
    }
    let entries = entries.0.chunks_exact(ENTRY_BYTES).map(|entry| Part(entry.to_vec()));
    let used: Vec<_> = entries.filter(|entry| !entry.has(0, &[0; 16])).collect();
    let range = |entry: &Part| Some((entry.number(32, 8)?, entry.number(40, 8)?));
    let root = used.iter().filter(|entry| label(entry) == ROOT).find_map(|entry| {
        range(entry).filter(|(first, end)| first <= end && *end <= last).map(|(first, _)| first)
    });
    Ok(match root {
        Some(first) => Table::Root(first.saturating_mul(SECTOR)),
        None if used.is_empty() => Table::Without("has a GPT without partitions".to_owned()),
        None if used.iter().any(|entry| label(entry) == ROOT) => {
            Table::Without("has a partition 'root' that ends behind the image's end".to_owned())
        }
        None => {
            let labels: Vec<_> =
                used.iter().take(MAX_LABELS).map(|entry| format!("'{}'", label(entry))).collect();
            Table::Without(format!("has a GPT with {}", labels.join(", ")))
        }
    })
}

/// Whether a record of the MBR says that the rest of it counts for nothing.
fn is_protective(head: &Part) -> bool {
    let record = |at: usize| {
        head.number(at.saturating_add(4), 1) == Some(0xee) && head.number(at.saturating_add(8), 4) == Some(1)
    };
    head.has(510, &[0x55, 0xaa]) && (446..510).step_by(16).any(record)
}

/// The label of a partition. Linux takes seven bits of each character, and `!` for
/// those that cannot be printed.
fn label(entry: &Part) -> String {
    let characters = (56..ENTRY_BYTES).step_by(2).filter_map(|at| entry.number(at, 1));
    let characters = characters.map(|byte| u8::try_from(byte & 0x7f).unwrap_or_default());
    let printable = |byte: u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '!' };
    characters.take_while(|byte| *byte != 0).map(printable).collect()
}
