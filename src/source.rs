// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources: places where VM directories live.

use std::path::PathBuf;

use crate::config::{SourceConfig, SourceKind};
use crate::definition::{DATA_DIRECTORY, Location, MAX_NAMED_EXTRAS};
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
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(unreadable)? {
            names.push(entry.map_err(unreadable)?.file_name());
        }
        names.sort_unstable();
        let root = self.root();
        let (mut locations, mut ignored) = (Vec::new(), 0_usize);
        for name in names {
            let path = directory.join(&name);
            match path.symlink_metadata() {
                // A link is judged by the boundary when it is read.
                Ok(found) if found.is_dir() || found.is_symlink() => {
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
