// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The command line, used as a user would: the real program on real
//! directories, and what it says, leaves and ends with.

#[path = "../support/mod.rs"]
mod support;

mod build;
mod build_in_nix;
mod build_on_a_bad_disk;
mod build_when_killed;
mod check;
mod cluster;
mod configuration;
mod contents;
mod control;
mod doctor;
mod exit_statuses;
mod exposure;
mod generator;
mod guest;
mod host_verbs;
mod hostile_sources;
mod images;
mod kernel;
mod leases;
mod list;
mod many_sources;
mod name;
mod namespace;
mod new;
mod output;
mod packages;
mod permissions;
mod providers;
mod readme;
mod schema;
mod shares;
mod status;
mod sync;
mod sync_and_systemd;
mod sync_at_once;
mod sync_host;
mod sync_on_a_bad_disk;
mod sync_when_killed;
mod units;
mod wayland;
