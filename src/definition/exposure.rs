// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a guest must not be able to write: its own and others' definitions.
//!
//! A guest that can write a directory in which a name of its definition is
//! looked up chooses its own disks and shared directories at the next start. So
//! no shared directory may contain such a directory, nor contain or lie within
//! `svc/data`. The question is asked when a definition is read and again at
//! each start.
//!
//! Mounts that the administrator made beneath a shared directory, and other user
//! partitions deeper down in one, are not looked for.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::list;
use super::location::DATA_DIRECTORY;
use crate::boundary::{Boundary, FileId, Resolved, ancestors, file_id};
use crate::problem::Problem;

/// The directories that a VM's shares must stay away from.
#[derive(Debug)]
pub struct Exposure {
    /// Must not be shared, nor anything that contains them; all that contain
    /// them stand here, too. With what they are.
    contained: BTreeMap<FileId, String>,
    /// Nothing within them must be shared.
    within: BTreeMap<FileId, String>,
}

impl Exposure {
    /// Finds them for the VM directory at `relative` beneath the user partition,
    /// whose images' and shares' entries are `entries`.
    pub fn of(boundary: &Boundary, relative: &Path, entries: &[PathBuf]) -> Self {
        let mut exposure = Self { contained: BTreeMap::new(), within: BTreeMap::new() };
        if let Ok(data) = boundary.resolve(Path::new(DATA_DIRECTORY)) {
            exposure.protect(&data, DATA_DIRECTORY);
            exposure.within.insert(file_id(&data.stat), DATA_DIRECTORY.to_owned());
            exposure.protect_vms(boundary, &data);
        }
        let alone = relative.as_os_str().is_empty();
        if let Ok(directory) = boundary.resolve(relative) {
            exposure.protect(&directory, "the VM directory");
            if !alone {
                exposure.within.insert(file_id(&directory.stat), "the VM directory".to_owned());
            }
        }
        for own in ["blk", "providers", "shared-dirs"] {
            if let Ok(found) = boundary.resolve(&relative.join(own)) {
                exposure.protect(&found, own);
                exposure.within.insert(file_id(&found.stat), own.to_owned());
            }
        }
        for entry in entries.iter().map(PathBuf::as_path).chain([Path::new("vmlinux")]) {
            if let Ok(found) = boundary.resolve(&relative.join(entry)) {
                exposure.pass(&found, &format!("what leads to {}", entry.display()));
            }
        }
        exposure
    }

    /// Nobody may write `found`, or decide where it is.
    fn protect(&mut self, found: &Resolved, what: &str) {
        self.contained.entry(file_id(&found.stat)).or_insert_with(|| what.to_owned());
        self.pass(found, what);
    }

    /// Nobody may decide where `found` is.
    fn pass(&mut self, found: &Resolved, what: &str) {
        for id in &found.through {
            self.contained.entry(*id).or_insert_with(|| what.to_owned());
        }
    }

    /// The other VM directories: also those that are links, or mounted elsewhere.
    fn protect_vms(&mut self, boundary: &Boundary, data: &Resolved) {
        let Ok(names) = data.open_directory().and_then(list) else { return };
        for name in &names {
            let Ok(stat) = rustix::fs::statat(&data.fd, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let what = format!("the VM directory {}", name.display());
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    self.within.insert(file_id(&stat), what);
                }
                FileType::Symlink => {
                    if let Ok(found) = boundary.resolve(&Path::new(DATA_DIRECTORY).join(name)) {
                        self.protect(&found, &what);
                        self.within.insert(file_id(&found.stat), what);
                    }
                }
                _ => {}
            }
        }
    }

    /// Checks the directory that the entry `shown` leads to.
    ///
    /// # Errors
    /// The problem of sharing it.
    pub fn check(&self, shown: &Path, share: &Resolved) -> Result<(), Problem> {
        match self.why_not(share) {
            None => Ok(()),
            Some(why) => Err(Problem::error(
                shown,
                format!(
                    "leads to {}, which {why}: the guest could rewrite VM definitions",
                    share.path.display()
                ),
                "share a directory of its own, apart from VM directories, kernels and images",
            )),
        }
    }

    fn why_not(&self, share: &Resolved) -> Option<String> {
        // As the path tells it: also for partitions that nothing is known of.
        let names: Vec<_> = share.path.components().map(|c| c.as_os_str()).collect();
        if names.windows(2).any(|pair| pair == ["svc", "data"]) {
            return Some(format!("lies within a {DATA_DIRECTORY}"));
        }
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if rustix::fs::openat(&share.fd, DATA_DIRECTORY, directory, Mode::empty()).is_ok() {
            return Some(format!("contains {DATA_DIRECTORY}"));
        }
        if let Some(what) = self.contained.get(&file_id(&share.stat)) {
            return Some(format!("contains {what}"));
        }
        let outer = ancestors(share.fd.as_fd());
        outer
            .iter()
            .find_map(|stat| self.within.get(&file_id(stat)))
            .map(|what| format!("lies within {what}"))
    }
}
