// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The Nix face, with a real Nix: evaluated, built, and what was built is run.
//! Nixpkgs is the stand-in of `nixpkgs/`, whose packages are this machine's tools.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/mod.rs"]
mod support;

mod built;
mod documented;
mod flake;
mod formatting;
mod library;
mod modules;
mod real_nix;
mod rules;
mod running;
mod stand_in;
mod store;
mod upstream;

use std::path::PathBuf;
use std::process::Command;

/// A program of the Nix in `MICROVM_SPECTRUM_TEST_NIX`, a directory of programs.
fn nix_command(program: &str) -> Command {
    let directory = std::env::var_os("MICROVM_SPECTRUM_TEST_NIX")
        .expect("MICROVM_SPECTRUM_TEST_NIX is not set: run `make check`, or `checks/with-nix cargo test`");
    let mut command = Command::new(PathBuf::from(directory).join(program));
    // Nothing is built or kept.
    command.args(["--store", "dummy://"]);
    command
}
