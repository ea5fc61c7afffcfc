// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The files of a directory that only root can change, as they are.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::moment::Moment;
use super::notes::Notes;
use super::seen::Seen;
use super::storage::Storage;
use crate::directory::boundary::ancestors;

/// Notes `directory` and the files with these paths in it; nothing if one is missing, or in
/// doubt.
pub fn note(
    notes: &mut Notes,
    directory: &Path,
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Option<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    let outer = ancestors(opened.as_fd());
    let (stat, outer) = outer.split_first()?;
    let node = notes.root(directory, stat, outer, opened.as_fd())?;
    for path in paths {
        // Each by itself: together they are more than one definition may depend on.
        notes.begin();
        let found = rustix::fs::statat(&opened, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if found.st_dev != stat.st_dev {
            return None;
        }
        notes.entry(Some(node), path.as_ref().as_os_str(), &found, opened.as_fd())?;
    }
    Some(())
}

/// A text that differs when one of the files with these paths in `directory` has changed;
/// nothing if one is missing, if that is in doubt, or if one had changed just before the
/// moment `since`.
pub fn stamp<'a>(
    storage: &mut Storage,
    directory: &Path,
    paths: impl IntoIterator<Item = &'a str>,
    since: Option<&Moment>,
) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
    let mut digest = Sha256::new();
    let device = rustix::fs::fstat(&directory).ok()?.st_dev;
    digest.update(storage.of(device, directory.as_fd())?.to_le_bytes());
    for path in paths {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let stat = rustix::fs::statat(&directory, path, flags).ok()?;
        let seen = Seen::new(&stat);
        if seen.device() != device || since.is_some_and(|since| !since.is_settled(seen.changed())) {
            return None;
        }
        seen.numbers().iter().for_each(|number| digest.update(number.to_le_bytes()));
    }
    Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
