// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A user partition that turns hostile while `sync` reads it: that takes bounded
//! time and memory, says plainly what is wrong, and leads nowhere else.

#[path = "../support/mod.rs"]
mod support;

mod bounded_sync;
mod costs;
mod many_entries;
#[path = "../command_line/namespace.rs"]
mod namespace;
mod swapping;
mod unchanged;
