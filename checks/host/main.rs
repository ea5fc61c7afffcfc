// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The host side on a real systemd as PID 1: units, drop-ins and commands, with
//! real guests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod attackers;
mod console;
mod failing;
#[path = "../fixture/mod.rs"]
mod fixture;
mod harness;
mod hostile_guest;
mod killed;
mod lifecycle;
mod machine;
mod many;
mod networks;
mod networks_failures;
mod older_packages;
mod place;
mod random_sequences;
mod sources;
mod units;
