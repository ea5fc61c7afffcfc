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

#[path = "../support/mod.rs"]
mod support;

mod attackers;
mod cluster;
mod completion;
mod console;
mod doctor;
mod failing;
mod harness;
mod hostile_guest;
mod hostile_monitor;
mod killed;
mod lifecycle;
mod many;
mod monitors;
mod network_namespace;
mod networks;
mod networks_failures;
mod nix_store;
mod older_packages;
mod own_vm;
mod picture;
mod random_attack;
mod random_sequences;
mod readme;
mod resets;
mod session;
mod sources;
mod unit_security;
mod upgrade;
mod uplinks;
mod windows;
