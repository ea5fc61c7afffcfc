// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A link: one network connection from a client VM to its network provider.
//!
//! Ids and addresses, the graph of clients and providers, the taps that the host
//! joins, and the records of existing links. All stages from the
//! [`plan`](crate::plan) on may use it.

pub mod graph;
pub mod id;
pub mod id_set;
pub mod records;
pub mod taps;
