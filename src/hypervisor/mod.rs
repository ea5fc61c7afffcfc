// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The hypervisors, one module each, behind an interface of two halves.
//!
//! [`mod@description`] says what a hypervisor is: the argument vector of its virtual
//! machine monitor (VMM) for a [`Plan`], and what that VMM can do. [`mod@running`]
//! talks to a VMM that runs. A hypervisor is added by adding a module that
//! implements both traits, and its lines in [`HypervisorName`] and
//! [`description()`]. Stages that decide use the first half; only the
//! supervisor uses the second.

mod cloud_hypervisor;
pub mod description;
pub mod passt_probe;
mod qemu;
pub mod running;
mod socket;

use std::time::{Duration, Instant};

pub use description::Hypervisor;
pub use qemu::{kvm_probe, kvm_record, wayland_probe};
pub use running::RunningVmm;

use crate::plan::{HypervisorName, Plan};

/// The description of the hypervisor with this name.
pub fn description(name: HypervisorName) -> &'static dyn Hypervisor {
    match name {
        HypervisorName::CloudHypervisor => &cloud_hypervisor::CloudHypervisor,
        HypervisorName::Qemu => &qemu::Qemu,
    }
}

/// The VMM that runs this plan in the working directory. Its calls together take
/// no longer than `timeout` from now; make a new value for the next exchange.
pub fn running(plan: &Plan, timeout: Duration) -> Box<dyn RunningVmm> {
    description(plan.hypervisor).running(plan, Instant::now() + timeout)
}
