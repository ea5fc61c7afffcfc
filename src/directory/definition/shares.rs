// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `shared-dirs/<tag>/dir`: the directories shared with the guest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};

use super::exposure::Exposure;
use super::{Directory, MAX_SHARES, Reader, Share, SharedDirectories, owner, text};
use crate::directory::boundary::{Entry, Resolved};

const DIRECTORY: &str = "shared-dirs";
/// What to do about a wrong `dir`.
const LINK_REMEDY: &str = "make it a symbolic link to the directory to share";
/// The longest virtio-fs tag, in bytes (Virtual I/O Device specification 1.2,
/// section 5.11.4, `tag`).
const MAX_TAG_BYTES: usize = 36;

/// Where a share's link leads.
enum Found {
    /// To a directory of this host.
    Here(Resolved),
    /// To this path of the host that will run the VM.
    Elsewhere(PathBuf),
}

impl Reader<'_> {
    /// The usable shared directories, sorted by tag. Reports the others. Must be called
    /// when everything else of the VM has been read.
    pub(super) fn shares(&mut self, top: &Directory) -> Vec<Share> {
        if top.get(DIRECTORY).is_none() {
            return Vec::new();
        }
        let Some(directory) = self.directory(top, Path::new(DIRECTORY)) else {
            return Vec::new();
        };
        self.exposure.protect(&directory.place, DIRECTORY);
        let tags = &directory.entries;
        if tags.len() > MAX_SHARES {
            self.problems.error(
                self.shown(DIRECTORY),
                format!("holds {} shared directories; a VM can have {MAX_SHARES}", tags.len()),
                "remove some, or share their common parent",
            );
            return Vec::new();
        }
        let found: Vec<_> = tags.iter().filter_map(|tag| self.find_share(&directory, &tag.name)).collect();
        // No share may contain the path to another.
        let exposure = Exposure::new(self.partition.exposure(), std::mem::take(&mut self.exposure));
        found
            .into_iter()
            .filter_map(|(tag, entry, found)| self.share(tag, &entry, &found, &exposure))
            .collect()
    }

    /// Follows a share's link and reports its problems.
    fn find_share(&mut self, directory: &Directory, tag: &OsStr) -> Option<(String, PathBuf, Found)> {
        let parent = Path::new(DIRECTORY).join(tag);
        let entry = parent.join("dir");
        let tag = match text::usable(tag) {
            Ok(tag) if tag.len() > MAX_TAG_BYTES => {
                self.problems.error(
                    self.shown(&parent),
                    format!("the tag has {} bytes; a virtio-fs tag has at most {MAX_TAG_BYTES}", tag.len()),
                    "choose a shorter name",
                );
                return None;
            }
            Ok(tag) if tag.contains('\n') => {
                self.problems.error(
                    self.shown(&parent),
                    "the tag contains a line feed, which Linux refuses",
                    "rename it",
                );
                return None;
            }
            Ok(tag) => tag,
            Err(why) => {
                self.problems.error(self.shown(&parent), format!("the tag {why}"), text::REMEDY);
                return None;
            }
        };
        let directory = self.directory(directory, &parent)?;
        self.note_extras(&parent, &directory.entries, |entry| entry.name == "dir");
        let Some(dir) = directory.get("dir") else {
            self.problems.error(self.shown(&entry), "is missing", LINK_REMEDY);
            return None;
        };
        let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if !directory.place.look_at(dir).is_ok_and(is_link) {
            self.problems.error(self.shown(&entry), "is not a symbolic link", LINK_REMEDY);
            return None;
        }
        let found = match self.elsewhere(&directory, dir) {
            Some(path) => Found::Elsewhere(path),
            None => {
                let found = self.find(&directory, &entry, FileType::Directory, LINK_REMEDY)?;
                self.exposure.pass(&found, &entry);
                Found::Here(found)
            }
        };
        Some((tag.to_owned(), entry, found))
    }

    /// Where the link `dir` leads on the host that will run the VM, unless the target
    /// must be examined here.
    fn elsewhere(&self, directory: &Directory, dir: &Entry) -> Option<PathBuf> {
        match self.shared {
            SharedDirectories::Here => None,
            SharedDirectories::Elsewhere => {
                let target = directory.place.read_link(dir).ok()?;
                self.location.boundary.elsewhere(&target)
            }
        }
    }

    /// Refuses a share through which the guest could rewrite VM definitions.
    fn share(&mut self, tag: String, entry: &Path, found: &Found, exposure: &Exposure) -> Option<Share> {
        let (shown, walker) = (self.shown(entry), &self.partition.walker);
        let (path, checked) = match found {
            Found::Here(found) => {
                let lies_in = walker.lies_in(found);
                let checked = exposure.check_lying_in(&shown, found, &lies_in);
                (&found.path, checked.and_then(|()| owner::check_links(&shown, found)))
            }
            Found::Elsewhere(path) => (path, Exposure::check_path(&shown, path)),
        };
        if let Err(problem) = checked {
            self.problems.push(problem);
            return None;
        }
        if let (Found::Here(found), Some(notes)) = (found, walker.notes()) {
            if owner::matters(found) {
                walker.note_owners(found);
            }
            // What is in it decides whether a later scan finds VM directories there.
            if rustix::fs::statat(&found.fd, "svc", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                notes.borrow_mut().doubt();
            }
        }
        let source = match text::usable(path.as_os_str()) {
            Ok(path) if path.contains(['\n', '\r']) => Err("contains a line break".to_owned()),
            other => other,
        };
        match (source, entry.to_str()) {
            (Ok(source), Some(text)) => {
                let source = self.keep(entry, source)?;
                Some(Share { entry: self.keep(entry, text)?, tag, source })
            }
            (Err(why), _) => {
                self.problems.error(path, format!("the shared directory's path {why}"), text::REMEDY);
                None
            }
            (Ok(_), None) => None,
        }
    }
}
