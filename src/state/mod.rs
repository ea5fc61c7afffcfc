// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is on disk about all VMs: the state directory, the catalog, the leases.
//!
//! This stage reads and writes it; what stands in it is decided by
//! [`sync`](crate::sync), and read by the stages after that.

pub mod catalog;
pub mod directory;
pub mod installed;
pub mod leases;
pub mod network;
pub mod nix_store;
pub mod started;
pub mod status;
