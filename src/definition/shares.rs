// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `shared-dirs/<tag>/dir`: the directories shared with the guest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};

use super::exposure::Exposure;
use super::{Image, MAX_SHARES, Reader, Share, text};

const DIRECTORY: &str = "shared-dirs";
/// What to do about a `dir` that is not what it should be.
const LINK_REMEDY: &str = "make it a symbolic link to the directory to share";
/// The longest virtio-fs tag, in bytes (Virtual I/O Device specification 1.2,
/// section 5.11.4, `tag`).
const MAX_TAG_BYTES: usize = 36;

impl Reader<'_> {
    /// The shared directories that are usable, sorted by tag; the rest is reported.
    pub(super) fn shares(&mut self, images: &[Image]) -> Vec<Share> {
        let Some(tags) = self.directory(DIRECTORY) else {
            return Vec::new();
        };
        if tags.len() > MAX_SHARES {
            self.problems.error(
                self.shown(DIRECTORY),
                format!("holds {} shared directories, a VM can have {MAX_SHARES}", tags.len()),
                "remove some, or share their common parent",
            );
            return Vec::new();
        }
        let entries = images.iter().map(|image| PathBuf::from(&image.entry));
        let links = tags.iter().map(|tag| Path::new(DIRECTORY).join(tag).join("dir"));
        let entries: Vec<_> = entries.chain(links).collect();
        let exposure = Exposure::of(self.boundary(), &self.location.relative, &entries);
        tags.iter().filter_map(|tag| self.share(tag, &exposure)).collect()
    }

    fn share(&mut self, tag: &OsStr, exposure: &Exposure) -> Option<Share> {
        let parent = Path::new(DIRECTORY).join(tag);
        let entry = parent.join("dir");
        let tag = match text::usable(tag) {
            Ok(tag) if tag.len() > MAX_TAG_BYTES => {
                self.problems.error(
                    self.shown(&parent),
                    format!("the tag has {} bytes, a virtio-fs tag has at most {MAX_TAG_BYTES}", tag.len()),
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
        let entries = self.directory(&parent)?;
        self.note_extras(&parent, &entries, |name| name == "dir");
        if !entries.iter().any(|name| name == "dir") {
            self.problems.error(self.shown(&entry), "is missing", LINK_REMEDY);
            return None;
        }
        if !self.is_link(&parent, "dir") {
            self.problems.error(self.shown(&entry), "is not a symbolic link", LINK_REMEDY);
            return None;
        }
        let found = self.find(&entry, FileType::Directory, LINK_REMEDY)?;
        if let Err(problem) = exposure.check(&self.shown(&entry), &found) {
            self.problems.push(problem);
            return None;
        }
        let source = match text::usable(found.path.as_os_str()) {
            Ok(path) if path.contains(['\n', '\r']) => Err("contains a line break".to_owned()),
            other => other,
        };
        match (source, entry.to_str()) {
            (Ok(source), Some(entry)) => {
                Some(Share { tag: tag.to_owned(), entry: entry.to_owned(), source: source.to_owned() })
            }
            (Err(why), _) => {
                self.problems.error(&found.path, format!("the shared directory's path {why}"), text::REMEDY);
                None
            }
            (Ok(_), None) => None,
        }
    }

    fn is_link(&self, parent: &Path, name: &str) -> bool {
        let Ok(parent) = self.resolve(parent) else {
            return false;
        };
        rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }
}
