// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whole runner packages against those in `packages/`, for both hypervisors, unit
//! files against those in `units/`, and that nothing but the input has a say in them.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes both; what changed
//! there is then for a review to judge.

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod determinism;
mod package_files;
mod unit_files;
