// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Stamps: whether a file is still the same, without reading it.

use rustix::fs::Stat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::printable::Untrusted;

/// The identity, size and times of a file at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileStamp {
    /// Its path within the VM directory or, for a manifest, within the package.
    pub entry: Untrusted,
    /// The number of its device.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// When its content last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When its content or its metadata last changed, in nanoseconds since 1970.
    pub changed: i64,
}

impl FileStamp {
    /// The stamp of the file to which `entry` leads and which has this status.
    pub fn new(entry: &str, stat: &Stat) -> Self {
        // The nanoseconds have different types on different architectures.
        let time = |seconds: i64, nanoseconds: u64| {
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::try_from(nanoseconds).unwrap_or_default())
        };
        #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
        Self {
            entry: Untrusted::from(entry.to_owned()),
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: time(stat.st_mtime, stat.st_mtime_nsec as u64),
            changed: time(stat.st_ctime, stat.st_ctime_nsec as u64),
        }
    }
}
