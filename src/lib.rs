// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Runs Spectrum OS virtual machine directories as microvm.nix runner packages.
//!
//! Spectrum describes a virtual machine by a plain directory; microvm.nix runs
//! one from a *runner package* with a fixed layout. This crate turns the first
//! into the second. The modules are the stages of the data flow, each of which
//! imports only from those before it:
//!
//! | stage | module |
//! |---|---|
//! | what every stage uses: names, problems, printable text | [`base`] |
//! | disk, processes, systemd, accounts | [`system`] |
//! | a VM directory, read and validated | [`directory`] |
//! | links between VMs | [`link`] |
//! | everything that running one VM needs | [`plan`] |
//! | the VMM's command line and its control | [`hypervisor`] |
//! | the runner package: decided, laid out, published | [`package`] |
//! | what the administrator decides | [`config`] |
//! | the state directory, the catalog, the leases | [`state`] |
//! | from all sources to one new generation of packages | [`sync`] |
//! | running a VM from its start to its end | [`supervisor`] |
//! | unit files, and what the units call | [`host`] |
//! | the command line | [`cli`] |

// The program does not panic, whatever its input.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::print_stderr
    )
)]

pub mod base;
pub mod cli;
pub mod config;
pub mod directory;
pub mod host;
pub mod hypervisor;
pub mod link;
pub mod package;
pub mod plan;
pub mod state;
pub mod supervisor;
pub mod sync;
pub mod system;
