// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A Nix store on this host: packages are put into it, and what VMs need of it
//! is kept from the garbage collector.
//!
//! A garbage-collection root is a symbolic link beneath
//! `/nix/var/nix/gcroots` to a store path (Nix's manual, "Garbage Collector
//! Roots").

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::plan::Plan;
use crate::system::durable;
use crate::system::program;
use crate::system::systemd;

/// Where store paths are.
pub const STORE: &str = "/nix/store";
/// Where the roots of the garbage collector are.
const ROOTS: &str = "/nix/var/nix/gcroots";
/// The directory of this program's roots there.
const OWN: &str = "microvm-spectrum";

/// A store, and the program that puts something into it.
#[derive(Debug, Clone)]
pub struct NixStore {
    /// `nix-store`.
    pub program: PathBuf,
}

impl NixStore {
    /// Puts the directory `path` into the store as it is, and returns its store path.
    ///
    /// # Errors
    /// The system's error, or what `nix-store` says.
    pub fn add(&self, path: &Path) -> io::Result<PathBuf> {
        let printed = program::output(Command::new(&self.program).arg("--add").arg(path), "")?;
        let printed = String::from_utf8_lossy(&printed);
        Ok(PathBuf::from(printed.trim_end()))
    }
}

/// The path that has this base name in the store.
pub fn path(base_name: &str) -> PathBuf {
    Path::new(STORE).join(base_name)
}

/// The store path that `path` is, or lies in.
pub fn path_of(path: &Path) -> Option<PathBuf> {
    match path.strip_prefix(STORE).ok()?.components().next()? {
        Component::Normal(name) => Some(Path::new(STORE).join(name)),
        _ => None,
    }
}

/// The store paths that a plan needs.
pub fn paths_of(plan: &Plan) -> BTreeSet<PathBuf> {
    let files = std::iter::once(&plan.kernel).chain(&plan.images).map(|file| Path::new(&file.path));
    let shares = plan.shares.iter().map(|share| Path::new(&share.source));
    let tools = plan.tools.values().map(PathBuf::as_path);
    let definition = plan.definition.boundary.user_partition.as_path();
    files.chain(shares).chain(tools).chain([definition]).filter_map(path_of).collect()
}

/// The roots of one state directory.
#[derive(Debug, Clone)]
pub struct Roots(PathBuf);

impl Roots {
    /// Those of the state directory at `root`; none where there is no Nix.
    pub fn of(root: &Path) -> Option<Self> {
        let roots = Path::new(ROOTS);
        // Only root can make them.
        (rustix::process::geteuid().is_root() && roots.is_dir())
            .then(|| Self(roots.join(OWN).join(name_of(root))))
    }

    /// Makes these store paths roots, besides those that are.
    ///
    /// # Errors
    /// The directory, and the system's error.
    pub fn add(&self, paths: &BTreeSet<PathBuf>) -> Result<(), (PathBuf, io::Error)> {
        let missing = paths.iter().filter_map(|path| Some((self.0.join(path.file_name()?), path)));
        let missing: Vec<_> = missing
            .filter(|(root, path)| !std::fs::read_link(root).is_ok_and(|found| found == **path))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        durable::ensure_directory(&self.0).map_err(|error| (self.0.clone(), error))?;
        for (root, path) in missing {
            durable::replace_link(&root, path).map_err(|error| (root, error))?;
        }
        Ok(())
    }

    /// Removes the roots of all other store paths. What cannot be removed now
    /// is the next time.
    pub fn retain(&self, paths: &BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !paths.iter().any(|path| path.file_name() == Some(&name)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// What the roots of a state directory are called: no two directories have one
/// name, since each removes what the other needs.
fn name_of(root: &Path) -> String {
    systemd::escape_path(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn no_two_state_directories_have_the_same_roots() {
        assert_eq!(name_of(Path::new("/var/lib/microvms")), "var-lib-microvms");
        let names = ["/srv/a/b", "/srv/a-b", "/srv-a/b", "/srv/a\\x2db", "/srv/\u{fffd}"];
        let mut names: Vec<_> = names.map(|path| name_of(Path::new(path))).into();
        names.push(name_of(Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xff"))));
        let all: BTreeSet<_> = names.iter().collect();
        assert_eq!(all.len(), names.len(), "{names:?}");
    }
}
