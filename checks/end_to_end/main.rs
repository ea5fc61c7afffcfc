// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! End to end: real packages with the real QEMU (TCG), a real guest kernel and
//! the real virtiofsd. `make check` makes the parts and names them in the
//! environment, see `checks/with-test-guest`.

#[path = "../support/mod.rs"]
mod support;

mod cloud_hypervisor;
mod devices;
mod ends;
mod failures;
mod resets;
mod sharing_a_host;
mod windows;
