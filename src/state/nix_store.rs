// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The host's Nix store: `sync` adds packages to it, and keeps its garbage collector
//! from the store paths that VMs need.
//!
//! A garbage-collection root is a symbolic link beneath `/nix/var/nix/gcroots` to a
//! store path (Nix's manual, "Garbage Collector Roots").

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::unwritable;
use crate::base::problem::Problem;
use crate::base::tool;
use crate::plan::Plan;
use crate::state::place::PackagePlace;
use crate::system::durable;
use crate::system::program;
use crate::system::systemd;

/// The directory of all store paths.
pub const STORE: &str = "/nix/store";
/// Where `nix-store` is when PATH lacks it, as systemd's does: on NixOS, and elsewhere.
const NIX_PATH: &str = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin";
/// The socket of Nix's daemon (Nix's manual, "Multi-User Mode").
const DAEMON: &str = "/nix/var/nix/daemon-socket/socket";
/// The directory of all roots of the garbage collector.
const ROOTS: &str = "/nix/var/nix/gcroots";
/// The directory of this program's roots in it.
const OWN: &str = "microvm-spectrum";

/// The program `nix-store`, which changes the store.
#[derive(Debug, Clone)]
pub struct NixStore {
    program: PathBuf,
}

impl NixStore {
    /// Finds `nix-store` in `path`, the value of the environment variable PATH, or where Nix
    /// puts it.
    ///
    /// # Errors
    /// When it is in neither.
    pub fn find(path: &OsStr) -> Result<Self, Problem> {
        let name = "nix-store";
        let program = tool::find(name, path).or_else(|| tool::find(name, NIX_PATH.as_ref()));
        program.map(|program| Self { program }).ok_or_else(|| {
            Problem::host(name, "is not in PATH, and adds the packages to the Nix store", "install Nix")
        })
    }

    /// Adds the directory `path` to the store as it is, and returns its store path.
    ///
    /// # Errors
    /// When `nix-store` cannot be started or fails; then with its last line.
    pub fn add(&self, path: &Path) -> io::Result<PathBuf> {
        let printed = self.call("--add", path)?;
        let printed = String::from_utf8_lossy(&printed);
        Ok(PathBuf::from(printed.trim_end()))
    }

    /// Removes a store path that is no longer as it was added, which [`add`](Self::add)
    /// leaves as it is.
    ///
    /// # Errors
    /// See [`add`](Self::add); also when the path is in use.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("--delete", path).map(drop)
    }

    fn call(&self, option: &str, path: &Path) -> io::Result<Vec<u8>> {
        let mut command = Command::new(&self.program);
        // In its unit, sync cannot make a store writable that the host mounts read-only.
        if Path::new(DAEMON).exists() {
            command.env("NIX_REMOTE", "daemon");
        }
        Ok(program::output(command.arg(option).arg(path), "")?)
    }
}

/// The store path with this base name, as the place of a package.
pub fn place(base_name: &str) -> PackagePlace {
    PackagePlace::At(format!("{STORE}/{base_name}"))
}

/// The store path that `path` is or lies in.
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

/// The garbage-collection roots of one state directory.
#[derive(Debug, Clone)]
pub struct Roots(PathBuf);

impl Roots {
    /// Those of the state directory at `root`; none on a host without Nix.
    pub fn of(root: &Path) -> Option<Self> {
        let roots = Path::new(ROOTS);
        // Only root can create them.
        (rustix::process::geteuid().is_root() && roots.is_dir())
            .then(|| Self(roots.join(OWN).join(name_of(root))))
    }

    /// Adds roots for these store paths.
    ///
    /// # Errors
    /// The host's, when a root or their directory cannot be written.
    pub fn add(&self, paths: &BTreeSet<PathBuf>) -> Result<(), Problem> {
        let missing = paths.iter().filter_map(|path| Some((self.0.join(path.file_name()?), path)));
        let missing: Vec<_> = missing
            .filter(|(root, path)| !std::fs::read_link(root).is_ok_and(|found| found == **path))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        durable::ensure_directory(&self.0).map_err(unwritable(&self.0))?;
        for (root, path) in missing {
            durable::replace_link(&root, path).map_err(unwritable(&root))?;
        }
        Ok(())
    }

    /// Does something to a store path while it has no root here.
    ///
    /// # Errors
    /// Those of `work`, and those of [`add`](Self::add).
    pub fn without(&self, path: &Path, work: impl FnOnce() -> Result<(), Problem>) -> Result<(), Problem> {
        if let Some(name) = path.file_name() {
            let root = self.0.join(name);
            durable::if_present(std::fs::remove_file(&root)).map_err(unwritable(&root))?;
        }
        let done = work();
        self.add(&BTreeSet::from([path.to_owned()]))?;
        done
    }

    /// Removes the roots of all other store paths. A later call removes those that
    /// this one cannot remove.
    pub fn retain(&self, paths: &BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !paths.iter().any(|path| path.file_name() == Some(&name)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The name of the directory of a state directory's roots. No two state directories
/// have the same, or one would remove the roots of the other.
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
