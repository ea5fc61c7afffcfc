// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Runs Spectrum OS virtual machine directories as microvm.nix runner packages.
//!
//! Spectrum describes a virtual machine by a plain directory; microvm.nix runs
//! one from a *runner package* with a fixed layout. This crate turns the first
//! into the second. The modules are the stages of the data's way, each of which
//! imports only from those before it:
//!
//! | stage | module |
//! |---|---|
//! | words that all stages use | [`name`], [`architecture`], [`problem`], [`printable`], [`tool`], [`runtime`] |
//! | disk, systemd, templates | [`durable`], [`trust`], [`systemd`], [`journal`], [`template`] |
//! | where links may lead, and what is there | [`boundary`], [`stamp`] |
//! | a VM directory, read and validated | [`definition`] |
//! | what a VM directory was said to name | [`declaration`] |
//! | links between VMs, PCI devices of the host | [`link`], [`pci`] |
//! | the form of a VM plan | [`manifest`] |
//! | the VMM's command line and its control | [`hypervisor`] |
//! | everything that running takes, decided | [`plan`] |
//! | the runner package | [`package`], [`nix_store`] |
//! | what the administrator decides, and leases | [`config`], [`lease`], [`accounts`] |
//! | all VMs of all sources | [`source`], [`catalog`], [`network_graph`] |
//! | the state directory | [`state_directory`], [`started`], [`sync`] |
//! | unit files and the generator's drop-ins | [`units`] |
//! | the host's side of links, and who has which | [`wire`], [`attachment`] |
//! | running it | [`process`], [`virtiofsd`], [`console`], [`supervisor`] |
//! | what the units call | [`host`] |
//! | the command line | [`cli`] |

// Whatever the input, the program does not panic.
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

pub mod accounts;
pub mod architecture;
pub mod attachment;
pub mod boundary;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod console;
pub mod declaration;
pub mod definition;
pub mod durable;
pub mod host;
pub mod hypervisor;
pub mod journal;
pub mod lease;
pub mod link;
pub mod manifest;
pub mod name;
pub mod network_graph;
pub mod nix_store;
pub mod package;
pub mod pci;
pub mod plan;
pub mod printable;
pub mod problem;
pub mod process;
pub mod runtime;
pub mod source;
pub mod stamp;
pub mod started;
pub mod state_directory;
pub mod supervisor;
pub mod sync;
pub mod systemd;
pub mod template;
pub mod tool;
pub mod trust;
pub mod units;
pub mod virtiofsd;
pub mod wire;
