// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The command line, used as a user would: the real program on real
//! directories, and what it says, leaves and ends with.

mod build;
mod build_on_a_bad_disk;
mod build_when_killed;
mod check;
mod exposure;
#[path = "../fixture/mod.rs"]
mod fixture;
mod images;
mod kernel;
mod name;
mod output;
mod packages;
mod providers;
mod shares;
