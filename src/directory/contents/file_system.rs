// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which file system lies somewhere.

use super::parts::{Parts, Unread};

/// A file system that a root partition can have.
#[derive(Debug)]
pub(super) struct FileSystem {
    /// Its name.
    pub(super) name: &'static str,
    /// The kernel's options, of which one must be built in to mount it.
    pub(super) options: &'static [&'static str],
    /// Where its superblock has the magic number, in bytes.
    offset: usize,
    magic: &'static [u8],
}

/// Source: Linux's
/// `include/uapi/linux/magic.h`, and the superblocks in each one's folder.
const KNOWN: [FileSystem; 6] = [
    FileSystem { name: "squashfs", options: &["SQUASHFS"], offset: 0, magic: b"hsqs" },
    FileSystem { name: "XFS", options: &["XFS_FS"], offset: 0, magic: b"XFSB" },
    FileSystem { name: "erofs", options: &["EROFS_FS"], offset: 1024, magic: &[0xe2, 0xe1, 0xf5, 0xe0] },
    FileSystem { name: "F2FS", options: &["F2FS_FS"], offset: 1024, magic: &[0x10, 0x20, 0xf5, 0xf2] },
    FileSystem { name: "ext4", options: &["EXT4_FS", "EXT2_FS"], offset: 1080, magic: &[0x53, 0xef] },
    FileSystem { name: "Btrfs", options: &["BTRFS_FS"], offset: 0x1_0040, magic: b"_BHRfS_M" },
];

impl FileSystem {
    /// The one that begins at this byte of an image; `None` when it is unknown.
    pub(super) fn at(image: &Parts, offset: u64) -> Result<Option<&'static Self>, Unread> {
        let head = image.read(offset, 0x1_0048)?;
        Ok(KNOWN.iter().find(|known| head.has(known.offset, known.magic)))
    }
}
