// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A file as it was.

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use crate::directory::boundary::FileId;

/// A file as it was: device, inode, size, and the time of its last change in nanoseconds since
/// 1970. The time also changes with the content, the mode, the owner and, for a directory,
/// the names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen(u64, u64, u64, i64);

impl Seen {
    /// The file with this status.
    pub fn new(stat: &Stat) -> Self {
        // The fields have different types on different architectures.
        #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
        let (seconds, nanoseconds) = (stat.st_ctime as i64, stat.st_ctime_nsec as i64);
        let changed = seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Self(stat.st_dev, stat.st_ino, u64::try_from(stat.st_size).unwrap_or_default(), changed)
    }

    /// The number of its device.
    pub fn device(&self) -> u64 {
        self.0
    }

    /// Its device and its inode.
    pub fn id(&self) -> FileId {
        (self.0, self.1)
    }

    /// When it changed last.
    pub fn changed(&self) -> i64 {
        self.3
    }

    /// All of it.
    #[allow(clippy::cast_sign_loss)]
    pub(super) fn numbers(&self) -> [u64; 4] {
        let Self(device, inode, size, changed) = *self;
        [device, inode, size, changed as u64]
    }

    /// The file with these [`numbers`](Self::numbers).
    #[allow(clippy::cast_possible_wrap)]
    pub(super) fn from_numbers([device, inode, size, changed]: [u64; 4]) -> Self {
        Self(device, inode, size, changed as i64)
    }
}

/// A directory that leads to another: its id, mode, owner and group.
///
/// Its times change with everything that is created in it, which does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outer(FileId, u32, u32, u32);

impl Outer {
    pub fn new(stat: &Stat) -> Self {
        Self((stat.st_dev, stat.st_ino), stat.st_mode, stat.st_uid, stat.st_gid)
    }
}

/// Whether a file of this status is a directory.
pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
