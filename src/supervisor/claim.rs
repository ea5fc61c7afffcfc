// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The working directory of a VM that runs, for one supervisor at a time.

use std::io;
use std::time::{Duration, Instant};

use super::Outcome;
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames, remove_socket};

/// How long another holder of the run lock may take to release it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// The VM's lock in the working directory; with it go the VM's files there.
pub(super) struct Claim {
    sockets: SocketNames,
    lock: Lock,
}

impl Claim {
    /// Takes the lock, and removes the sockets that a killed supervisor has left.
    pub fn take(plan: &Plan) -> Result<Self, Outcome> {
        let sockets = SocketNames::new(&plan.name);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let lock = Lock::take(&sockets.run_lock(), deadline).map_err(|error| {
            Outcome::HostFailed(match error.kind() {
                io::ErrorKind::WouldBlock => "the VM runs in this directory already".to_owned(),
                _ => format!("cannot write to this directory, which the VM's sockets need: {error}"),
            })
        })?;
        let claim = Self { sockets, lock };
        claim.remove_sockets();
        Ok(claim)
    }

    /// Whether the last supervisor here was killed.
    pub fn was_left_behind(&self) -> bool {
        self.lock.was_left_behind()
    }

    /// Removes the sockets of a VMM that has ended.
    pub fn remove_sockets(&self) {
        self.sockets.of_vmm().into_iter().for_each(remove_socket);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.remove_sockets();
        let _ = std::fs::remove_file(self.sockets.control_lock_of_vmm());
        // Left by clients that were killed while they held them.
        drop(Lock::try_take(&self.sockets.control_lock()));
        drop(Lock::try_take(&self.sockets.console_lock()));
    }
}
