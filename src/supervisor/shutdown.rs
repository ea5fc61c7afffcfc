// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Pressing the guest's power button, and `bin/microvm-shutdown`.

use std::io;
use std::time::{Duration, Instant};

use crate::hypervisor;
use crate::hypervisor::running::EXCHANGE_TIMEOUT;
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames};

/// How often the power button is pressed: a guest that is still booting does not
/// notice the first time.
pub(super) const PRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How often to look whether the VM has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What became of a VM that was asked to power off.
#[derive(Debug)]
pub enum Shutdown {
    /// It has ended.
    Ended,
    /// It did not run in the working directory.
    NotRunning,
    /// It runs after the time-out still; with the VMM's last answer, if that was
    /// no.
    StillRunning(Option<io::Error>),
}

/// Presses the power button of the VM in the working directory until the VM has
/// ended, or for `timeout`. The VM may be another supervisor's.
pub fn shutdown(plan: &Plan, timeout: Duration) -> Shutdown {
    let lock = SocketNames::new(&plan.name).run_lock();
    if !Lock::is_held(&lock) {
        return Shutdown::NotRunning;
    }
    let deadline = Instant::now() + timeout;
    let mut press_at = Instant::now();
    let mut refused = None;
    while Lock::is_held(&lock) {
        let now = Instant::now();
        if now >= deadline {
            return Shutdown::StillRunning(refused);
        }
        if now >= press_at {
            press_at = now + PRESS_INTERVAL;
            let vmm = hypervisor::running(plan, EXCHANGE_TIMEOUT.min(deadline - now));
            refused = vmm.press_power_button().err();
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Shutdown::Ended
}
