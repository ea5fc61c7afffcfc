// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What several suites share. Each file says what it is; `checks/README.md` lists them.

// Each suite uses some of it.
#![allow(dead_code, unused_imports, unused_macros)]

pub mod compositor;
pub mod guest;
pub mod installed;
pub mod links;
pub mod program;
pub mod random;
pub mod readme;
pub mod running_vm;
pub mod skip;
pub mod systemd_machine;
pub mod terminal;
pub mod tree;
pub mod vm_directory;
pub mod waiting;
