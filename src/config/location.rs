// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where a source keeps its VM directories.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::base::problem::{Problem, Problems};
use crate::config::{SourceConfig, SourceKind};
use crate::directory::boundary::{Boundary, ResolveError};
use crate::directory::definition::{DATA_DIRECTORY, Location, MAX_NAMED_EXTRAS};
use crate::system::durable;

/// The most VM directories of one source. Otherwise an untrusted partition would
/// decide how long a sync takes.
pub const MAX_VMS: usize = 10_000;
/// The most entries of the directory that holds them, of whatever kind.
const MAX_ENTRIES: usize = 200_000;
/// The longest path of that directory beneath its source, in bytes: each VM has it in its own.
const MAX_PATH_BYTES: usize = 255;

/// The directory that holds VM directories, open for listing.
pub struct Opened {
    /// The source's root, free of links.
    pub root: PathBuf,
    /// The directory's path, free of links.
    pub real: PathBuf,
    /// The directory.
    pub directory: OwnedFd,
}

impl SourceConfig {
    /// The directory that holds the VM directories.
    pub fn vm_directories(&self) -> PathBuf {
        match self.kind {
            SourceKind::Builtin => self.root(),
            SourceKind::UserPartition => self.root().join(DATA_DIRECTORY),
        }
    }

    /// The places of all VM directories, sorted by name. Adds a note for every other
    /// entry to `problems`.
    ///
    /// # Errors
    /// When the source cannot be read, such as a partition that is not mounted.
    pub fn locations(&self, problems: &mut Problems) -> Result<Vec<Location>, Problem> {
        self.first_locations(MAX_VMS, problems)
    }

    /// Like [`Self::locations`], but no more than `most`.
    fn first_locations(&self, most: usize, problems: &mut Problems) -> Result<Vec<Location>, Problem> {
        let directory = self.vm_directories();
        let Opened { root, real, directory: opened } = self.open()?;
        let Some(entries) = entries(&opened, MAX_ENTRIES).map_err(|error| self.unreadable(error))? else {
            let cause = format!("holds more than {MAX_ENTRIES} entries; none of its VMs is read");
            return Err(Problem::error(directory, cause, "remove some"));
        };
        let is_vm = |file_type| matches!(file_type, FileType::Directory | FileType::Symlink);
        let (vms, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, file_type)| is_vm(*file_type));
        for (name, _) in others.iter().take(MAX_NAMED_EXTRAS) {
            problems.note(directory.join(name), "is not a VM directory; it is ignored", "remove it");
        }
        if let Some(more) = others.len().checked_sub(MAX_NAMED_EXTRAS).filter(|more| *more > 0) {
            problems.note(&directory, format!("{more} more entries are not VM directories"), "remove them");
        }
        if let Some(more) = vms.len().checked_sub(most).filter(|more| *more > 0) {
            problems.error(
                &directory,
                format!("holds {more} VM directories more than {most}; sync ignores the last ones by name"),
                "remove some, or make them a source of their own",
            );
        }
        let mut locations = Vec::new();
        for (name, _) in vms.iter().take(most) {
            // Reading the VM directory judges one that is a link.
            match Location::beneath(&root, &real.join(name), &directory.join(name), &self.allow) {
                Ok(location) => locations.push(location),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(locations)
    }

    fn unreadable(&self, error: impl Into<io::Error>) -> Problem {
        Problem::note(
            self.vm_directories(),
            format!("the source {} cannot be read: {}", self.name, error.into()),
            "mount its file system, or remove it from the configuration",
        )
    }

    /// Opens the directory that holds the VM directories, following links once for
    /// all of these.
    ///
    /// # Errors
    /// Those of [`Self::locations`].
    pub fn open(&self) -> Result<Opened, Problem> {
        let directory = self.vm_directories();
        let unreadable = |error: io::Error| self.unreadable(error);
        let root = self.root().canonicalize().map_err(unreadable)?;
        if self.kind == SourceKind::Builtin {
            let opened = durable::open_directory(&directory).map_err(unreadable)?;
            return Ok(Opened { real: root.clone(), root, directory: opened });
        }
        // A link on the partition must not choose a directory of the host.
        let boundary = Boundary { user_partition: root.clone(), allowed: Vec::new() };
        let found = boundary.resolve(DATA_DIRECTORY.as_ref()).map_err(|error| match error {
            ResolveError::Missing(_) => self.unreadable(Errno::NOENT),
            ResolveError::NotADirectory(_) => self.unreadable(Errno::NOTDIR),
            ResolveError::Io { error, .. } => self.unreadable(error),
            leads_elsewhere => {
                let cause = leads_elsewhere.problem(&directory).cause;
                Problem::error(&directory, cause, "put the VM directories on the partition")
            }
        })?;
        if found.path.as_os_str().len() > root.as_os_str().len().saturating_add(MAX_PATH_BYTES) {
            let cause = format!("leads to a path of more than {MAX_PATH_BYTES} bytes on the partition");
            return Err(Problem::error(directory, cause, "give the VM directories a shorter path"));
        }
        let opened = found.open_directory().map_err(unreadable)?;
        Ok(Opened { root, real: found.path, directory: opened })
    }
}

/// The entries of a directory that are not being made, sorted by name; none when there are more than `most`.
fn entries(directory: &OwnedFd, most: usize) -> io::Result<Option<Vec<(OsString, FileType)>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        let mut file_type = entry.file_type();
        if file_type == FileType::Unknown {
            // Some file systems do not list it.
            let found = rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW);
            file_type = found.map_or(file_type, |found| FileType::from_raw_mode(found.st_mode));
        }
        // One that is being made appears when it is complete.
        let is_being_made = name.to_str().and_then(durable::replaced_by).is_some();
        if name != "." && name != ".." && !is_being_made {
            if found.len() == most {
                return Ok(None);
            }
            found.push((name, file_type));
        }
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_source_has_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join(DATA_DIRECTORY);
        std::fs::create_dir_all(&data).unwrap();
        for index in 0..8 {
            std::fs::create_dir(data.join(format!("vm-{index:05}"))).unwrap();
        }
        // Not one of them, and nothing to tell the user about.
        std::fs::create_dir(data.join(".vm-new.1234.tmp")).unwrap();
        let path = root.join("config.toml");
        let text =
            format!("[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{}'\n", root.display());
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        let mut problems = Problems::default();
        let found = config.sources[0].first_locations(5, &mut problems).unwrap();
        let names: Vec<_> = found.iter().map(|location| location.file_name().to_str().unwrap()).collect();
        assert_eq!(names, ["vm-00000", "vm-00001", "vm-00002", "vm-00003", "vm-00004"]);
        let printed: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
        assert!(
            printed.len() == 1 && printed[0].contains("holds 3 VM directories more than 5"),
            "{printed:?}"
        );
    }
}
