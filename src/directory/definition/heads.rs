// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The beginnings of files, which many VMs may have in common.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read as _};

use rustix::fs::Stat;

use crate::directory::boundary::{FileId, Resolved, file_id};

/// A file as it was: its identity, size and times.
type Version = (FileId, [i128; 5]);

/// What the beginnings of known files have shown.
#[derive(Debug)]
pub(super) struct KnownHeads<T>(RefCell<BTreeMap<Version, T>>);

impl<T> Default for KnownHeads<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Clone> KnownHeads<T> {
    /// What `examine` returns for the first bytes of a file, `length` at most. Reads
    /// each version of a file once.
    pub(super) fn get(
        &self,
        file: &Resolved,
        length: u64,
        examine: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        let version = version(&file.stat);
        if let Some(known) = self.0.borrow().get(&version) {
            return Ok(known.clone());
        }
        let mut head = Vec::new();
        file.open_file()?.take(length).read_to_end(&mut head)?;
        let found = examine(&head);
        self.0.borrow_mut().insert(version, found.clone());
        Ok(found)
    }
}

fn version(stat: &Stat) -> Version {
    let size_and_times = [
        i128::from(stat.st_size),
        i128::from(stat.st_mtime),
        i128::from(stat.st_mtime_nsec),
        i128::from(stat.st_ctime),
        i128::from(stat.st_ctime_nsec),
    ];
    (file_id(stat), size_and_times)
}
