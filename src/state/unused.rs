// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Marks of VMs that have leases and have never run: they have left no files.
//!
//! `sync` makes a mark when it leases a user id for the units, and the first start of a
//! VM of that name removes it. Where there is no mark, the VM may have run.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::name::{VmId, VmName};
use crate::state::directory::StateDirectory;
use crate::system::durable;

fn mark(state: &StateDirectory, name: &VmName) -> PathBuf {
    state.unused().join(name.as_str())
}

/// Marks a VM that has just got its first lease.
///
/// # Errors
/// When the mark cannot be written.
pub fn note(state: &StateDirectory, vm: &VmId) -> io::Result<()> {
    durable::ensure_directory(&state.unused())?;
    let path = mark(state, &vm.name);
    durable::if_present(std::fs::remove_file(&path))?;
    durable::create_file(&path, &vm.to_string(), 0o644)
}

/// Whether a VM has never run.
pub fn is(state: &StateDirectory, vm: &VmId) -> bool {
    std::fs::read_to_string(mark(state, &vm.name)).is_ok_and(|text| text == vm.to_string())
}

/// Removes the mark of the VM called `name`, for good, before it runs.
///
/// # Errors
/// When there is one and it cannot be removed.
pub fn remove(state: &StateDirectory, name: &VmName) -> io::Result<()> {
    let removed = durable::if_present(std::fs::remove_file(mark(state, name)))?;
    match removed {
        Some(()) => durable::sync_directory(durable::open_directory(&state.unused())?),
        None => Ok(()),
    }
}

/// Removes the marks of names for which `is_needed` is false.
pub fn clean_up(directory: &Path, is_needed: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(&is_needed) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
