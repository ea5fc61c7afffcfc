// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is left when `sync` is killed, or refused by the system, at every single
//! system call that changes a file. strace injects it.
//!
//! [`trace`] finds these calls, [`stage`] sets up what `sync` has to do, [`state`]
//! says what must be true of what it left, [`points`] and [`forgetting`] try every
//! call, and [`order`] looks at the order of the calls.

#[path = "../support/mod.rs"]
mod support;

mod forgetting;
mod order;
mod points;
mod stage;
mod state;
mod trace;
