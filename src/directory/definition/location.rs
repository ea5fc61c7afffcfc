// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where a VM directory is, and where its links may lead.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::problem::Problem;
use crate::directory::boundary::{AllowedPrefix, Boundary};

/// Where user partitions keep their VM directories.
pub const DATA_DIRECTORY: &str = "svc/data";

/// The place of one VM directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The user partition, and where else links may lead.
    pub boundary: Boundary,
    /// The directory's path beneath the user partition; empty when the directory
    /// counts as a partition of its own.
    pub relative: PathBuf,
    name: std::ffi::OsString,
}

impl Location {
    /// Finds the place of `directory`.
    ///
    /// The user partition is `user_partition`, else `P` when `directory` is
    /// `P/svc/data/NAME`, else the directory itself.
    ///
    /// # Errors
    /// When the directory does not exist, is a user partition itself, or does not lie
    /// beneath the given `user_partition`.
    pub fn find(
        directory: &Path,
        user_partition: Option<&Path>,
        allowed: &[AllowedPrefix],
    ) -> Result<Self, Problem> {
        let missing = |error: io::Error| {
            Problem::error(directory, format!("cannot be found: {error}"), "name an existing VM directory")
        };
        // The last name is the VM's. It may be a link, which the boundary judges when
        // the directory is read; the user chose the path to it.
        let named = match directory.file_name() {
            Some(name) => {
                let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new(".")).canonicalize().map_err(missing)?;
                parent.join(name)
            }
            None => directory.canonicalize().map_err(missing)?,
        };
        let name = named.file_name().unwrap_or(OsStr::new("")).to_owned();
        if !named.symlink_metadata().map_err(missing)?.is_symlink() && !named.is_dir() {
            return Err(Problem::error(
                directory,
                "is not a directory",
                "name a VM directory, with vmlinux and blk/ in it",
            ));
        }
        let is_there = |entry: &str| named.join(entry).symlink_metadata().is_ok();
        if is_there(DATA_DIRECTORY) && !is_there("vmlinux") && !is_there("blk") {
            return Err(Problem::error(
                directory,
                "is a user partition, which holds VM directories in svc/data",
                format!("name its VM directories: {}/*", directory.join(DATA_DIRECTORY).display()),
            ));
        }
        let partition = match user_partition {
            Some(given) => Some(given.canonicalize().map_err(|error| {
                Problem::error(
                    given,
                    format!("cannot be found: {error}"),
                    "name the user partition's mount point",
                )
            })?),
            None => named
                .parent()
                .filter(|p| p.ends_with(DATA_DIRECTORY))
                .and_then(|p| p.parent()?.parent().map(Path::to_owned)),
        };
        match partition {
            Some(partition) => Self::beneath(&partition, &named, directory, allowed),
            None => {
                let user_partition = named.canonicalize().map_err(missing)?;
                let boundary = Boundary { user_partition, allowed: allowed.to_vec() };
                Ok(Self { boundary, relative: PathBuf::new(), name })
            }
        }
    }

    /// The place of the directory `named`, a path that is free of links except for its
    /// last name, like that of the user partition. Problems show it as `shown`.
    ///
    /// # Errors
    /// When it does not lie beneath the user partition.
    pub fn beneath(
        user_partition: &Path,
        named: &Path,
        shown: &Path,
        allowed: &[AllowedPrefix],
    ) -> Result<Self, Problem> {
        let Ok(relative) = named.strip_prefix(user_partition) else {
            return Err(Problem::error(
                shown,
                format!("is not beneath the user partition {}", user_partition.display()),
                "name the user partition that holds it, or leave --user-partition out",
            ));
        };
        let name = named.file_name().unwrap_or(OsStr::new("")).to_owned();
        let boundary = Boundary { user_partition: user_partition.to_owned(), allowed: allowed.to_vec() };
        Ok(Self { boundary, relative: relative.to_owned(), name })
    }

    /// The directory's path on this host.
    pub fn directory(&self) -> PathBuf {
        if self.relative.as_os_str().is_empty() {
            self.boundary.user_partition.clone()
        } else {
            self.boundary.user_partition.join(&self.relative)
        }
    }

    /// The directory's name, unchecked.
    pub fn file_name(&self) -> &OsStr {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn finds_the_partition() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let vm = root.join("p/svc/data/vm");
        fs::create_dir_all(&vm).unwrap();
        let found = Location::find(&vm, None, &[]).unwrap();
        assert_eq!(found.boundary.user_partition, root.join("p"));
        assert_eq!(found.relative, Path::new("svc/data/vm"));
        assert_eq!(found.directory(), vm);
        let given = Location::find(&vm, Some(&root), &[]).unwrap();
        assert_eq!(given.relative, Path::new("p/svc/data/vm"));
        let alone = root.join("alone");
        fs::create_dir(&alone).unwrap();
        let found = Location::find(&alone.join("."), None, &[]).unwrap();
        assert_eq!((found.directory(), found.file_name()), (alone.clone(), OsStr::new("alone")));
        assert_eq!(found.relative, Path::new(""));
        assert!(Location::find(&alone, Some(&root.join("p")), &[]).is_err());
        assert!(Location::find(&root.join("none"), None, &[]).is_err());
        fs::write(root.join("file"), "").unwrap();
        assert!(Location::find(&root.join("file"), None, &[]).is_err());
        assert!(Location::find(Path::new("/"), None, &[]).is_ok());
    }
}
