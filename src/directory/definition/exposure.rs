// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a guest must not be able to write: the definitions of VMs.
//!
//! The program looks up the names of a definition in directories. A guest that can
//! write one of these chooses its own disks and shared directories at the next
//! start. So no shared directory may contain such a directory, nor contain or lie
//! within `svc/data`. The program checks this when it reads a definition, and again
//! at each start.
//!
//! It does not look for mounts that the administrator made beneath a shared
//! directory, nor for other user partitions deeper down in one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};

use super::location::DATA_DIRECTORY;
use crate::base::problem::Problem;
use crate::directory::boundary::{
    Boundary, FileId, Place, ResolveError, Resolved, Walker, ancestors, file_id,
};

/// The directories of a VM directory in which the program looks up names.
pub(super) const OWN: [&str; 4] = ["blk", "providers", "providers/net", "shared-dirs"];

/// The directories that a VM's shares must neither contain nor lie within.
#[derive(Debug)]
pub struct Exposure {
    partition: Rc<PartitionExposure>,
    own: OwnExposure,
}

/// The protected directories that all VMs of a user partition have in common. Where
/// several have one id, `contained` has the first and `within` the last.
#[derive(Debug, Default)]
pub(super) struct PartitionExposure {
    contained: BTreeMap<FileId, Rc<What>>,
    within: BTreeMap<FileId, Rc<What>>,
    /// Whether there are more than the source's budget pays for.
    is_incomplete: bool,
}

/// The protected directories of one VM.
#[derive(Debug, Default)]
pub(super) struct OwnExposure {
    /// No share may be one of these, or contain one: each with the ids of all
    /// directories that contain it, in the order in which they were found.
    contained: Vec<(Vec<FileId>, What)>,
    /// The same for the directories that lead to the files and shares.
    paths: Vec<(Vec<FileId>, What)>,
    /// No share may lie within these.
    within: Vec<(FileId, What)>,
}

/// Which directory is protected.
#[derive(Debug, Clone)]
enum What {
    Data,
    Own,
    Entry(&'static str),
    Vm(OsString),
    PathTo(PathBuf),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str(DATA_DIRECTORY),
            Self::Own => f.write_str("the VM directory"),
            Self::Entry(name) => f.write_str(name),
            Self::Vm(name) => write!(f, "the VM directory {}", name.display()),
            Self::PathTo(entry) => write!(f, "a directory on the path to {}", entry.display()),
        }
    }
}

impl OwnExposure {
    /// Protects the VM directory itself. One that is `alone` counts as a user
    /// partition, in which directories may be shared.
    pub(super) fn protect_vm(&mut self, directory: &Place, alone: bool) {
        self.protect_as(directory, What::Own);
        if alone {
            self.within.pop();
        }
    }

    /// Protects one of the [`OWN`] directories.
    pub(super) fn protect(&mut self, found: &Place, own: &'static str) {
        self.protect_as(found, What::Entry(own));
    }

    fn protect_as(&mut self, found: &Place, what: What) {
        let id = file_id(found.stat());
        let ids = std::iter::once(id).chain(found.through().iter().copied()).collect();
        self.contained.push((ids, what.clone()));
        self.within.push((id, what));
    }

    /// Protects the directories that lead to the target of an entry.
    pub(super) fn pass(&mut self, found: &Resolved, entry: &Path) {
        self.paths.push((found.through.clone(), What::PathTo(entry.to_owned())));
    }

    fn contained(&self, id: &FileId) -> Option<&What> {
        let mut all = self.contained.iter().chain(&self.paths);
        all.find(|(ids, _)| ids.contains(id)).map(|(_, what)| what)
    }

    fn within(&self, id: &FileId) -> Option<&What> {
        self.within.iter().rev().find(|(other, _)| other == id).map(|(_, what)| what)
    }
}

impl PartitionExposure {
    /// Finds those of a user partition.
    pub(super) fn of(walker: &Walker) -> Self {
        let mut found = Self::default();
        let Ok(data) = walker.enter(Path::new(DATA_DIRECTORY)) else { return found };
        found.protect(&data, What::Data);
        // Other VM directories may be links, or mount points.
        let entries = data.list(walker.budget());
        found.is_incomplete = matches!(entries, Err(ResolveError::Exceeded(_)));
        for entry in entries.unwrap_or_default() {
            let Ok(stat) = data.look_at(&entry) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    walker.note_same(&data, &entry, &stat);
                    found.within.insert(file_id(&stat), Rc::new(What::Vm(entry.name)));
                }
                FileType::Symlink => match walker.enter_from(&data, &entry) {
                    Ok(vm) => found.protect(&vm, What::Vm(entry.name)),
                    Err(ResolveError::Exceeded(_)) => found.is_incomplete = true,
                    Err(_) => {}
                },
                _ => {}
            }
        }
        found
    }

    fn protect(&mut self, found: &Place, what: What) {
        let what = Rc::new(what);
        let id = file_id(found.stat());
        for id in std::iter::once(&id).chain(found.through()) {
            self.contained.entry(*id).or_insert_with(|| Rc::clone(&what));
        }
        self.within.insert(id, what);
    }
}

impl Exposure {
    /// The protected directories of a partition and of a VM on it.
    pub(super) fn new(partition: Rc<PartitionExposure>, own: OwnExposure) -> Self {
        Self { partition, own }
    }

    /// Finds those of the VM directory at `relative` beneath the user partition, whose
    /// images and shares have these `entries`.
    pub fn of(boundary: &Boundary, relative: &Path, entries: &[PathBuf]) -> Self {
        let walker = Walker::new(boundary.clone());
        let mut own = OwnExposure::default();
        if let Ok(directory) = walker.enter(relative) {
            own.protect_vm(&directory, relative.as_os_str().is_empty());
        }
        for name in OWN {
            if let Ok(found) = walker.enter(&relative.join(name)) {
                own.protect(&found, name);
            }
        }
        for entry in entries.iter().map(PathBuf::as_path).chain([Path::new("vmlinux")]) {
            if let Ok(found) = walker.resolve(&relative.join(entry)) {
                own.pass(&found, entry);
            }
        }
        Self::new(Rc::new(PartitionExposure::of(&walker)), own)
    }

    /// Checks the directory to which the entry `shown` leads.
    ///
    /// # Errors
    /// When the guest could rewrite a definition through it.
    pub fn check(&self, shown: &Path, share: &Resolved) -> Result<(), Problem> {
        let lies_in: Vec<_> = ancestors(share.fd.as_fd()).iter().map(file_id).collect();
        self.check_lying_in(shown, share, &lies_in)
    }

    /// Like [`Exposure::check`], for a directory that lies in those with these ids.
    pub(super) fn check_lying_in(
        &self,
        shown: &Path,
        share: &Resolved,
        lies_in: &[FileId],
    ) -> Result<(), Problem> {
        match self.why_not(share, lies_in) {
            None => Ok(()),
            Some(why) => Err(refused(shown, &share.path, &why)),
        }
    }

    /// Checks the path of a directory on another host, to which the entry `shown` leads.
    ///
    /// # Errors
    /// When the path alone shows that the guest could rewrite a definition.
    pub fn check_path(shown: &Path, path: &Path) -> Result<(), Problem> {
        Self::why_not_by_path(path).map_or(Ok(()), |why| Err(refused(shown, path, &why)))
    }

    fn why_not_by_path(path: &Path) -> Option<String> {
        let mut names = path.components().map(|c| c.as_os_str()).peekable();
        while let Some(name) = names.next() {
            if name == "svc" && names.peek().is_some_and(|next| *next == "data") {
                return Some(format!("lies within a {DATA_DIRECTORY}"));
            }
        }
        None
    }

    fn why_not(&self, share: &Resolved, lies_in: &[FileId]) -> Option<String> {
        // By the path, also for partitions that are not a source.
        if let Some(why) = Self::why_not_by_path(&share.path) {
            return Some(why);
        }
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if rustix::fs::openat(&share.fd, DATA_DIRECTORY, directory, Mode::empty()).is_ok() {
            return Some(format!("contains {DATA_DIRECTORY}"));
        }
        let id = file_id(&share.stat);
        let partition = &self.partition;
        if partition.is_incomplete {
            return Some(format!("may contain one of {DATA_DIRECTORY}, which has too many links to follow"));
        }
        let contained = partition.contained.get(&id).map(|what| &**what);
        if let Some(what) = contained.or_else(|| self.own.contained(&id)) {
            return Some(format!("contains {what}"));
        }
        let within = |id| self.own.within(id).or_else(|| partition.within.get(id).map(|what| &**what));
        lies_in.iter().find_map(within).map(|what| format!("lies within {what}"))
    }
}

fn refused(shown: &Path, path: &Path, why: &str) -> Problem {
    Problem::error(
        shown,
        format!("leads to {}, which {why}: the guest could rewrite VM definitions", path.display()),
        "share a separate directory, away from VM directories, kernels and images",
    )
}
