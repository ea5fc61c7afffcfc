// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is on disk about all VMs: the state directory, the catalog, the leases.
//!
//! This stage reads and writes it. [`sync`](crate::sync) decides its content, and
//! the later stages read it.

pub mod catalog;
pub mod cib;
pub mod details;
pub mod directory;
pub mod installed;
pub mod leases;
pub mod look;
pub mod network;
pub mod nix_store;
pub mod place;
pub mod started;
pub mod status;
pub mod unused;

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::base::problem::Problem;

/// The host's problem that `path` cannot be read.
pub fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Problem + use<> {
    failed(path, "read")
}

/// The host's problem that `path` cannot be written.
pub fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> Problem + use<> {
    failed(path, "written")
}

fn failed(path: &Path, how: &'static str) -> impl FnOnce(io::Error) -> Problem + use<> {
    let path = path.to_owned();
    move |error| {
        let remedy = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on its file system",
            ErrorKind::ReadOnlyFilesystem => "mount its file system for writing",
            ErrorKind::PermissionDenied => "run it as root",
            _ => "check this path and its file system: dmesg shows what failed on a disk",
        };
        Problem::host(path, format!("cannot be {how}: {error}"), remedy)
    }
}
