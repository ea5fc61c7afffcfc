// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whose package it is, and so who does the host's part of running the VM.

use std::path::{Path, PathBuf};

use super::older::Files;
use super::scripts::Script;
use super::{LoadError, MANIFEST, load};
use crate::plan::Plan;

/// Whose a package is, as far as one of its scripts is concerned.
#[derive(Debug)]
pub enum Whose {
    /// This program's, with the VM's plan: the program does what the script calls it for.
    Ours(Box<Plan>),
    /// Another's, which brings the script as microvm.nix's packages do today.
    Script(PathBuf),
    /// Another's, without the script: of the older convention, where files say what
    /// the host has to do.
    Files(Files),
}

/// Says whose the package in `directory` is, for one part of the host's work.
///
/// Packages of microvm.nix have moved from files to scripts one by one, so that a
/// package can have a script for one part and files for another.
///
/// # Errors
/// When the package is this program's and has no usable manifest.
pub fn whose(directory: &Path, script: Script) -> Result<Whose, LoadError> {
    if is_ours(directory) {
        return Ok(Whose::Ours(Box::new(load(directory)?)));
    }
    let script = script.within(directory);
    Ok(if script.exists() { Whose::Script(script) } else { Whose::Files(Files::of(directory)) })
}

/// Whether the package in `directory` is one that this program has built.
pub(super) fn is_ours(directory: &Path) -> bool {
    directory.join(MANIFEST).is_file()
}
