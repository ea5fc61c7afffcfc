// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources: places where VM directories live.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::boundary::{Boundary, ResolveError};
use crate::config::{SourceConfig, SourceKind};
use crate::definition::{DATA_DIRECTORY, Location, MAX_NAMED_EXTRAS};
use crate::durable;
use crate::problem::{Problem, Problems};

impl SourceConfig {
    /// The directory that holds the VM directories.
    pub fn vm_directories(&self) -> PathBuf {
        match self.kind {
            SourceKind::Builtin => self.root(),
            SourceKind::UserPartition => self.root().join(DATA_DIRECTORY),
        }
    }

    /// The places of all VM directories, in the order of their names; what else
    /// is there is noted.
    ///
    /// # Errors
    /// When the source cannot be looked at, as a partition that is not mounted.
    pub fn locations(&self, problems: &mut Problems) -> Result<Vec<Location>, Problem> {
        let directory = self.vm_directories();
        let unreadable = |error: std::io::Error| {
            Problem::note(
                &directory,
                format!("the source {} cannot be read: {error}", self.name),
                "mount its file system, or remove it from the configuration",
            )
        };
        let root = self.root();
        let opened = match self.kind {
            // Whoever writes to the partition does not choose what is listed here.
            SourceKind::UserPartition => {
                let user_partition = root.canonicalize().map_err(unreadable)?;
                let resolved =
                    Boundary { user_partition, allowed: Vec::new() }.resolve(DATA_DIRECTORY.as_ref());
                match resolved {
                    Ok(found) => found.open_directory(),
                    Err(ResolveError::Missing(_)) => Err(Errno::NOENT.into()),
                    Err(ResolveError::NotADirectory(_)) => Err(Errno::NOTDIR.into()),
                    Err(ResolveError::Io { error, .. }) => Err(error),
                    Err(leads_elsewhere) => {
                        let cause = leads_elsewhere.problem(&directory).cause;
                        return Err(Problem::error(
                            directory,
                            cause,
                            "put the VM directories on the partition",
                        ));
                    }
                }
            }
            SourceKind::Builtin => durable::open_directory(&directory),
        };
        let opened = opened.map_err(unreadable)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&opened).map_err(|e| unreadable(e.into()))? {
            let entry = entry.map_err(|e| unreadable(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        let (mut locations, mut ignored) = (Vec::new(), 0_usize);
        for name in names {
            let path = directory.join(&name);
            let found = rustix::fs::statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW);
            match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
                // A link is judged by the boundary when it is read.
                Ok(FileType::Directory | FileType::Symlink) => {
                    match Location::find(&path, Some(&root), &self.allow) {
                        Ok(location) => locations.push(location),
                        Err(problem) => problems.push(problem),
                    }
                }
                _ => {
                    ignored += 1;
                    if ignored <= MAX_NAMED_EXTRAS {
                        problems.note(path, "is no VM directory and is ignored", "remove it");
                    }
                }
            }
        }
        if let Some(more) = ignored.checked_sub(MAX_NAMED_EXTRAS).filter(|more| *more > 0) {
            problems.note(directory, format!("{more} more entries are no VM directories"), "remove them");
        }
        Ok(locations)
    }
}
