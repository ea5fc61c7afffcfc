// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM directory: where its links may lead, and what it says, read and validated.
//!
//! Everything that comes from someone the host does not trust enters here. The
//! stages from [`plan`](crate::plan) on use what this one has checked.

pub mod boundary;
pub mod declared;
pub mod definition;
pub mod stamp;
