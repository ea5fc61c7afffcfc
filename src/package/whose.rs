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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_part_of_a_package_has_its_own_answer() {
        let package = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = package.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let whose = |script| super::whose(package.path(), script);
        write("bin/tap-up", "#!/bin/sh\n");
        write("share/microvm/tap-interfaces", "vm-a\nvm-b\n");
        let up = package.path().join("bin/tap-up");
        assert!(matches!(whose(Script::TapUp), Ok(Whose::Script(path)) if path == up));
        let Ok(Whose::Files(files)) = whose(Script::TapDown) else { panic!("it has no tap-down") };
        assert_eq!(files.taps().unwrap().iter().map(|tap| &**tap).collect::<Vec<_>>(), ["vm-a", "vm-b"]);
        write(MANIFEST, "{}");
        assert!(matches!(whose(Script::TapDown), Err(LoadError::Manifest { .. })));
    }
}
