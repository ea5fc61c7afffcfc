// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A file that a stranger wrote, read in parts, not for long.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

/// Why a part was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The time for all files of the VM directory is over.
    #[error("there is no time left")]
    Late,
}

/// A file, and until when it may be read.
#[derive(Debug)]
pub(super) struct Parts {
    file: File,
    deadline: Instant,
}

/// A part of a file. What lies behind the file's end is missing in it.
#[derive(Debug)]
pub(super) struct Part(pub(super) Vec<u8>);

impl Parts {
    pub(super) fn new(file: File, deadline: Instant) -> Self {
        Self { file, deadline }
    }

    /// Reads `length` bytes from `offset` on. The caller bounds the length.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Part, Unread> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if Instant::now() > self.deadline {
                return Err(Unread::Late);
            }
            // No file system has a file with bytes beyond the largest offset of the kernel.
            let Some(at) = offset.checked_add(filled as u64).filter(|at| i64::try_from(*at).is_ok()) else {
                break;
            };
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(read) => filled = filled.saturating_add(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(filled);
        Ok(Part(bytes))
    }
}

impl Part {
    /// The `length` bytes at `offset`, if all are there.
    pub(super) fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        self.0.get(offset..)?.get(..length)
    }

    /// Whether `bytes` are at `offset`.
    pub(super) fn has(&self, offset: usize, bytes: &[u8]) -> bool {
        self.bytes(offset, bytes.len()) == Some(bytes)
    }

    /// The little-endian number of `length` bytes, at most 8, at `offset`.
    pub(super) fn number(&self, offset: usize, length: usize) -> Option<u64> {
        let bytes = self.bytes(offset, length)?;
        Some(bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }
}
