// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Words that every stage uses: names, architectures, problems, printable text
//! and its colours, tools, templates, versioned documents.
//!
//! Nothing here knows more about virtual machines than their names. Every other
//! folder may use it; it uses none of them.

pub mod architecture;
pub mod colour;
pub mod name;
pub mod printable;
pub mod problem;
pub mod shortened;
pub mod template;
pub mod tool;
pub mod versioned;
