// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What root executes only root can replace: the check of it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// The most links that one path goes through, as in the kernel.
const MAX_LINKS: usize = 40;
/// Who else than the owner may write.
const OTHERS_WRITE: u32 = 0o022;
/// Only a file's owner may rename it in such a directory.
const STICKY: u32 = 0o1000;

/// Why root does not use a path.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Somebody else than root owns a part of it, or may write there.
    #[error("{} is not used by root: somebody else could change {} (owner {owner}, mode {mode:o}); make it root's alone: chown root, chmod go-w", .path.display(), .part.display())]
    Writable {
        /// The whole path.
        path: PathBuf,
        /// The part.
        part: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be looked at.
    #[error("{} cannot be looked at: {error}", .part.display())]
    Io {
        /// The part of the path.
        part: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl Untrusted {
    /// What is wrong, and what to do about it.
    pub fn cause_and_remedy(&self) -> (String, &'static str) {
        match self {
            Self::Writable { part, owner, mode, .. } => {
                let part = part.display();
                (
                    format!(
                        "is not used by root: somebody else could change {part} (owner {owner}, mode {mode:o})"
                    ),
                    "make it root's alone: chown root, chmod go-w",
                )
            }
            Self::Io { part, error } => (
                format!("cannot be used: {} cannot be looked at: {error}", part.display()),
                "make it readable",
            ),
        }
    }
}

/// Follows an absolute path, and returns it without links.
///
/// When it succeeds, nobody but root could change where the path leads, so
/// that what was checked is what is used.
///
/// # Errors
/// See [`Untrusted`].
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

/// Like [`resolve`] for something in a directory that [`resolve`] has found to be
/// root's alone.
///
/// # Errors
/// See [`Untrusted`].
pub fn check_in_trusted(path: &Path) -> Result<(), Untrusted> {
    match check(path, path)?.is_symlink() {
        true => resolve(path).map(drop),
        false => Ok(()),
    }
}

/// Like [`resolve`] for a directory, and for everything in it, where links lead
/// to included.
///
/// # Errors
/// See [`Untrusted`].
pub fn resolve_tree(path: &Path) -> Result<PathBuf, Untrusted> {
    let top = resolve(path)?;
    let mut waiting = vec![top.clone()];
    while let Some(directory) = waiting.pop() {
        let told = |error| Untrusted::Io { part: directory.clone(), error };
        for entry in std::fs::read_dir(&directory).map_err(told)? {
            let entry = entry.map_err(told)?;
            match resolve(&entry.path()) {
                // A link to nowhere gives nobody anything.
                Err(Untrusted::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                resolved => drop(resolved?),
            }
            if entry.file_type().map_err(told)?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Ok(top)
}

fn check(path: &Path, part: &Path) -> Result<std::fs::Metadata, Untrusted> {
    let found = part.symlink_metadata().map_err(|error| Untrusted::Io { part: part.to_owned(), error })?;
    // A link's mode means nothing, and whoever owns it cannot change it.
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

    /// Whether this user can make what is root's and what is not.
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
        assert!(resolve(&path).is_err(), "another's link");
        symlink("loop", root.join("loop")).unwrap();
        assert!(matches!(resolve(&root.join("loop")), Err(Untrusted::Io { .. })));
        assert!(matches!(resolve(&root.join("none")), Err(Untrusted::Io { .. })));
    }
}
