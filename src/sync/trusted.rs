// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Only root may decide where root writes and removes.
//!
//! Another user's `sync` writes as that user, so it checks nothing.

use std::path::{Path, PathBuf};

use crate::base::problem::Problem;
use crate::state::directory::StateDirectory;
use crate::state::look::{is_missing, unless_missing};
use crate::state::unreadable;
use crate::system::trust::{self, Untrusted};

/// The directories that hold everything.
pub(super) fn directories(state: &StateDirectory) -> [PathBuf; 4] {
    [state.root().to_owned(), state.own(), state.generations(), state.packages()]
}

/// Checks those of the state directory that exist.
pub(super) fn state(state: &StateDirectory) -> Result<(), Problem> {
    let mut there = directories(state).into_iter().filter(|path| path.symlink_metadata().is_ok());
    there.try_for_each(|path| directory(&path))
}

/// Checks a directory and the path to it.
pub(super) fn directory(path: &Path) -> Result<(), Problem> {
    by_root(path, |path| trust::resolve(path).map(drop))
}

/// Checks a VM's folder, if it exists, in a state directory that was checked.
pub(super) fn folder(path: &Path) -> Result<(), Problem> {
    match unless_missing(path.symlink_metadata()).map_err(unreadable(path))? {
        Some(_) => by_root(path, trust::check_in_trusted),
        None => Ok(()),
    }
}

fn by_root(path: &Path, check: impl Fn(&Path) -> Result<(), Untrusted>) -> Result<(), Problem> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    check(path).map_err(|untrusted| problem(path, &untrusted))
}

/// The problem that root does not use `path`.
pub(super) fn problem(path: &Path, untrusted: &Untrusted) -> Problem {
    let (cause, remedy) = untrusted.cause_and_remedy();
    match untrusted {
        Untrusted::Io { error, .. } if !is_missing(error) => Problem::host(path, cause, remedy),
        _ => Problem::error(path, cause, remedy),
    }
}
