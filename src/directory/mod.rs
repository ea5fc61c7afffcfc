// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM directory: where its links may lead, and its definition, read and validated.
//!
//! All untrusted input enters here. The stages from [`plan`](crate::plan) on use
//! what this one has checked.

pub mod boundary;
pub mod budget;
pub mod contents;
pub mod declared;
pub mod definition;
pub mod known;
pub mod making;
pub mod stamp;
