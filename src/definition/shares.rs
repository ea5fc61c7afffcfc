// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `shared-dirs/<tag>/dir`: the directories shared with the guest.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::location::DATA_DIRECTORY;
use super::{Image, MAX_SHARES, Reader, Share, describe, text};
use crate::boundary::{Boundary, Resolved};

const DIRECTORY: &str = "shared-dirs";
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
        let shares: Vec<_> = tags.iter().filter_map(|tag| self.share(tag)).collect();
        for share in &shares {
            for image in images {
                if Path::new(&image.path).starts_with(&share.source) {
                    self.problems.note(
                        self.shown(&share.entry),
                        format!(
                            "holds the disk image {}, which the guest can overwrite this way",
                            image.path
                        ),
                        "keep images out of shared directories",
                    );
                }
            }
        }
        shares
    }

    fn share(&mut self, tag: &OsStr) -> Option<Share> {
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
            self.problems.error(
                self.shown(&entry),
                "is missing",
                "make it a symbolic link to the directory to share",
            );
            return None;
        }
        if !self.is_link(&parent, "dir") {
            self.problems.error(
                self.shown(&entry),
                "is not a symbolic link",
                "make it a symbolic link to the directory to share",
            );
            return None;
        }
        let found = match self.resolve(&entry) {
            Ok(found) => found,
            Err(error) => {
                self.unresolved(&entry, &error);
                return None;
            }
        };
        if found.file_type() != FileType::Directory {
            self.problems.error(
                self.shown(&entry),
                format!("leads to {}, not to a directory", describe(found.file_type())),
                "make it a symbolic link to the directory to share",
            );
            return None;
        }
        if let Some(why) = exposes_definitions(self.boundary(), &self.location.relative, &found) {
            self.problems.error(
                self.shown(&entry),
                format!("leads to {}, {why}: the guest could rewrite VM definitions", found.path.display()),
                "share a directory of its own, apart from the VM directories",
            );
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

/// Why sharing this directory would hand VM definitions to the guest.
///
/// `relative` is the VM directory's path beneath the user partition, or empty.
/// The same question is asked again when the VM starts.
pub fn exposes_definitions(boundary: &Boundary, relative: &Path, share: &Resolved) -> Option<String> {
    let contains = |inner: &Resolved| ancestors(inner.fd.as_fd()).iter().any(|a| same(a, &share.stat));
    let within = |outer: &Resolved| ancestors(share.fd.as_fd()).iter().any(|a| same(a, &outer.stat));
    // As the path tells it: also for partitions that this reading knows nothing of.
    let names: Vec<_> = share.path.components().map(|c| c.as_os_str()).collect();
    if names.windows(2).any(|pair| pair == ["svc", "data"]) {
        return Some(format!("which lies within a {DATA_DIRECTORY}"));
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if rustix::fs::openat(&share.fd, DATA_DIRECTORY, directory, Mode::empty()).is_ok() {
        return Some(format!("which contains {DATA_DIRECTORY}"));
    }
    // As the file system tells it: whatever links and mounts there are.
    if let Ok(data) = boundary.resolve(Path::new(DATA_DIRECTORY)) {
        if contains(&data) {
            return Some(format!("which contains {DATA_DIRECTORY}"));
        }
        if within(&data) {
            return Some(format!("which lies within {DATA_DIRECTORY}"));
        }
    }
    // The VM directory itself, wherever it is.
    let alone = relative.as_os_str().is_empty();
    if let Ok(directory) = boundary.resolve(relative) {
        if contains(&directory) {
            return Some("which contains the VM directory".to_owned());
        }
        if !alone && within(&directory) {
            return Some("which lies within the VM directory".to_owned());
        }
    }
    for own in ["blk", "providers", DIRECTORY] {
        if let Ok(own_directory) = boundary.resolve(&relative.join(own))
            && within(&own_directory)
        {
            return Some(format!("which lies within the VM directory's {own}"));
        }
    }
    None
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// The directory itself and all that it lies in, up to the root.
fn ancestors(directory: BorrowedFd<'_>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut here = directory.try_clone_to_owned().ok();
    while let Some(fd) = here.take() {
        let Ok(stat) = rustix::fs::fstat(&fd) else { break };
        if found.last().is_some_and(|last| same(last, &stat)) || found.len() > 4096 {
            break;
        }
        found.push(stat);
        here =
            rustix::fs::openat(&fd, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .ok();
    }
    found
}
