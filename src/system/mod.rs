// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The machine that the program runs on: disks, processes, systemd, user accounts.
//!
//! Nothing here knows what a VM directory or a package is. Every later stage may
//! use it; it uses [`base`](crate::base) alone.

pub mod accounts;
pub mod compositor;
pub mod control;
pub mod durable;
pub mod journal;
pub mod poll;
pub mod process;
pub mod program;
pub mod systemd;
pub mod trust;
