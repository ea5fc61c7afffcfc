// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Checks that only root can replace what root executes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// The most links in one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// The permission of others than the owner to write.
const OTHERS_WRITE: u32 = 0o022;
/// In a directory with this bit, only a file's owner may rename it.
const STICKY: u32 = 0o1000;

/// Why root must not use a path.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Another user owns a part of it, or may write there.
    #[error("{} {}; {}", .path.display(), changeable(.part, *.owner, *.mode), OWN_IT)]
    Writable {
        /// The whole path.
        path: PathBuf,
        /// The part that another user could change.
        part: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// A part of it cannot be examined.
    #[error("{} cannot be examined: {error}", .part.display())]
    Io {
        /// The part of the path.
        part: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// What to do about a part that another user could change.
const OWN_IT: &str = "give it to root alone: chown root, chmod go-w";

fn changeable(part: &Path, owner: u32, mode: u32) -> String {
    format!(
        "is not safe for root: another user could change {} (owner {owner}, mode {mode:o})",
        part.display()
    )
}

impl Untrusted {
    /// What is wrong, and what to do about it.
    pub fn cause_and_remedy(&self) -> (String, &'static str) {
        match self {
            Self::Writable { part, owner, mode, .. } => (changeable(part, *owner, *mode), OWN_IT),
            Self::Io { part, error } => (
                format!("cannot be used: {} cannot be examined: {error}", part.display()),
                "make it readable",
            ),
        }
    }
}

/// Follows an absolute path and returns it without links.
///
/// After that, only root can change where the path leads, so that root uses what was
/// checked.
///
/// # Errors
/// When a part of the path is [`Untrusted`].
pub fn resolve(path: &Path) -> Result<PathBuf, Untrusted> {
    let names = |path: &Path| -> VecDeque<OsString> {
        path.components()
            .filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir))
            .map(|c| c.as_os_str().to_owned())
            .collect()
    };
    let mut here = PathBuf::from("/");
    check(path, &here)?;
    let mut ahead = names(path);
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let part = here.join(name);
        if check(path, &part)?.is_symlink() {
            links += 1;
            let looked = if links > MAX_LINKS {
                Err(io::ErrorKind::InvalidInput.into())
            } else {
                std::fs::read_link(&part)
            };
            let target = looked.map_err(|error| Untrusted::Io { part, error })?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            let mut names = names(&target);
            names.append(&mut ahead);
            ahead = names;
        } else {
            here = part;
        }
    }
    Ok(here)
}

/// Like [`resolve`], for an entry of a directory that [`resolve`] has returned.
///
/// # Errors
/// Those of [`resolve`].
pub fn check_in_trusted(path: &Path) -> Result<(), Untrusted> {
    match check(path, path)?.is_symlink() {
        true => resolve(path).map(drop),
        false => Ok(()),
    }
}

/// Like [`resolve`], for a directory, everything in it, and the targets of the links
/// in it.
///
/// # Errors
/// Those of [`resolve`], for the first entry that has one.
pub fn resolve_tree(path: &Path) -> Result<PathBuf, Untrusted> {
    let top = resolve(path)?;
    let mut waiting = vec![top.clone()];
    while let Some(directory) = waiting.pop() {
        let failed = |error| Untrusted::Io { part: directory.clone(), error };
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match resolve(&entry.path()) {
                // A link to nowhere is harmless.
                Err(Untrusted::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                resolved => drop(resolved?),
            }
            if entry.file_type().map_err(failed)?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(top)
}

fn check(path: &Path, part: &Path) -> Result<std::fs::Metadata, Untrusted> {
    let found = part.symlink_metadata().map_err(|error| Untrusted::Io { part: part.to_owned(), error })?;
    // A link's mode has no effect.
    let writable = !found.is_symlink()
        && found.mode() & OTHERS_WRITE != 0
        && !(found.is_dir() && found.mode() & STICKY != 0);
    if found.uid() != 0 || writable {
        let (owner, mode) = (found.uid(), found.mode() & 0o7777);
        return Err(Untrusted::Writable { path: path.to_owned(), part: part.to_owned(), owner, mode });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    /// Whether this user can make files of root and of others.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn every_part_must_be_roots_alone() {
        if !is_root() {
            let own = tempfile::tempdir().unwrap();
            assert!(matches!(resolve(own.path()), Err(Untrusted::Writable { .. })));
            return;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        symlink("../a/b", root.join("a/link")).unwrap();
        let path = root.join("a/link/../b/file");
        assert_eq!(resolve(&path).unwrap(), root.join("a/b/file"));
        for part in ["a", "a/b", "a/b/file"] {
            let part = root.join(part);
            let mode = part.metadata().unwrap().permissions();
            for bad in [0o775, 0o757] {
                fs::set_permissions(&part, Permissions::from_mode(bad)).unwrap();
                assert!(matches!(resolve(&path), Err(Untrusted::Writable { .. })), "{}", part.display());
            }
            fs::set_permissions(&part, mode).unwrap();
            chown(&part, Some(4242), None).unwrap();
            assert!(resolve(&path).is_err(), "{}", part.display());
            chown(&part, Some(0), None).unwrap();
        }
        std::os::unix::fs::lchown(root.join("a/link"), Some(4242), None).unwrap();
        assert!(resolve(&path).is_err(), "the link of another user");
        symlink("loop", root.join("loop")).unwrap();
        assert!(matches!(resolve(&root.join("loop")), Err(Untrusted::Io { .. })));
        assert!(matches!(resolve(&root.join("none")), Err(Untrusted::Io { .. })));
    }
}
