// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What VMs under test boot, which `checks/with-test-guest` makes.

use std::path::PathBuf;

/// The user whom shared directories belong to.
pub const GUEST_USER: u32 = 4242;

/// A part of the test guest (`KERNEL`, `ROOT`, `VIRTIOFSD`, `QEMU`, and for windows
/// `RUTABAGA_QEMU` and `SWAY`). Without it the test fails, since it would test nothing.
pub fn part(name: &str) -> PathBuf {
    let variable = format!("MICROVM_SPECTRUM_TEST_{name}");
    std::env::var_os(&variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: run `make check`, or `checks/with-test-guest cargo test`")
    })
}
