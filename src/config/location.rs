// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources: places where VM directories live.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::base::problem::{Problem, Problems};
use crate::config::{SourceConfig, SourceKind};
use crate::directory::boundary::{Boundary, ResolveError};
use crate::directory::definition::{DATA_DIRECTORY, Location, MAX_NAMED_EXTRAS};
use crate::system::durable;

/// The most VM directories of one source. Whoever writes to a partition would
/// otherwise decide how long a sync takes, and use up all user ids.
pub const MAX_VMS: usize = 10_000;

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
        self.first_locations(MAX_VMS, problems)
    }

    /// Like [`Self::locations`], of so many at most.
    fn first_locations(&self, most: usize, problems: &mut Problems) -> Result<Vec<Location>, Problem> {
        let directory = self.vm_directories();
        let unreadable = |error: std::io::Error| {
            Problem::note(
                &directory,
                format!("the source {} cannot be read: {error}", self.name),
                "mount its file system, or remove it from the configuration",
            )
        };
        let root = self.root().canonicalize().map_err(unreadable)?;
        // Free of links, so that the way to it is followed once for all of its VMs.
        let (opened, real) = match self.kind {
            // Whoever writes to the partition does not choose what is listed here.
            SourceKind::UserPartition => {
                let boundary = Boundary { user_partition: root.clone(), allowed: Vec::new() };
                match boundary.resolve(DATA_DIRECTORY.as_ref()) {
                    Ok(found) => (found.open_directory(), found.path),
                    Err(ResolveError::Missing(_)) => return Err(unreadable(Errno::NOENT.into())),
                    Err(ResolveError::NotADirectory(_)) => return Err(unreadable(Errno::NOTDIR.into())),
                    Err(ResolveError::Io { error, .. }) => return Err(unreadable(error)),
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
            SourceKind::Builtin => (durable::open_directory(&directory), root.clone()),
        };
        let opened = opened.map_err(unreadable)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&opened).map_err(|e| unreadable(e.into()))? {
            let entry = entry.map_err(|e| unreadable(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                found.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let (mut locations, mut ignored, mut left_out) = (Vec::new(), 0_usize, 0_usize);
        for (name, mut file_type) in found {
            let path = directory.join(&name);
            if file_type == FileType::Unknown {
                // Not all file systems tell.
                let found = rustix::fs::statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW);
                file_type = found.map_or(file_type, |found| FileType::from_raw_mode(found.st_mode));
            }
            match file_type {
                // A link is judged by the boundary when it is read.
                FileType::Directory | FileType::Symlink if locations.len() == most => left_out += 1,
                FileType::Directory | FileType::Symlink => {
                    match Location::beneath(&root, &real.join(&name), &path, &self.allow) {
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
            problems.note(&directory, format!("{more} more entries are no VM directories"), "remove them");
        }
        if left_out > 0 {
            problems.error(
                directory,
                format!(
                    "holds {left_out} VM directories more than {most}: the last ones by name are left out"
                ),
                "remove some, or make them a source of their own",
            );
        }
        Ok(locations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn nobody_decides_how_long_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join(DATA_DIRECTORY);
        std::fs::create_dir_all(&data).unwrap();
        for index in 0..8 {
            std::fs::create_dir(data.join(format!("vm-{index:05}"))).unwrap();
        }
        let path = root.join("config.toml");
        let text =
            format!("[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{}'\n", root.display());
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        let mut problems = Problems::default();
        let found = config.sources[0].first_locations(5, &mut problems).unwrap();
        let names: Vec<_> = found.iter().map(|location| location.file_name().to_str().unwrap()).collect();
        assert_eq!(names, ["vm-00000", "vm-00001", "vm-00002", "vm-00003", "vm-00004"]);
        let told: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("holds 3 VM directories more than 5"), "{told:?}");
    }
}
