// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The lock on the state directory.

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, Mode};

use super::trusted;
use crate::base::problem::Problem;
use crate::state::directory::StateDirectory;
use crate::state::unwritable;
use crate::system::durable;

/// While it lives, no other `sync` and no `forget` goes on. VMs can start until it
/// [excludes their starts](Lock::exclude_starts).
///
/// So how long it takes to read sources delays no start. There are two locks on one file:
/// that of `fcntl(2)` is for its processes, and that of `flock(2)` for those that start VMs.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until no other process holds the lock. Creates the state directory if it
    /// is missing.
    pub fn take(state: &StateDirectory) -> Result<Self, Problem> {
        // The users of VMs must be able to enter the directories even if this process is
        // killed early: they get their mode when they are created.
        rustix::process::umask(Mode::WGRP | Mode::WOTH);
        for directory in trusted::directories(state) {
            durable::ensure_directory(&directory).map_err(unwritable(&directory))?;
            trusted::directory(&directory)?;
        }
        let path = state.lock();
        // A user who could open the lock could hold it, and so keep VMs from starting.
        let mut options = File::options();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(&path).map_err(unwritable(&path))?;
        if lock.metadata().map_err(unwritable(&path))?.permissions().mode() & 0o7777 != 0o600 {
            lock.set_permissions(Permissions::from_mode(0o600)).map_err(unwritable(&path))?;
        }
        rustix::fs::fcntl_lock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| unwritable(&path)(e.into()))?;
        Ok(Self { file: lock, path })
    }

    /// From now on, no VM that starts records its start in `booted`: what removes packages
    /// looks at these records first.
    pub fn exclude_starts(&self) -> Result<(), Problem> {
        let locked = rustix::fs::flock(&self.file, FlockOperation::LockExclusive);
        locked.map_err(|e| unwritable(&self.path)(e.into()))
    }
}
