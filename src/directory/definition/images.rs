// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `blk/*.img`: the disk images.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;

use super::{Directory, Image, MAX_IMAGES, Reader, text};
use crate::directory::stamp::FileStamp;

pub(super) const DIRECTORY: &str = "blk";
/// The first bytes of a QCOW2 file (QEMU's `docs/interop/qcow2.txt`).
const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

/// Whether a name in `blk/` is that of an image, by Spectrum's rule: its extension is
/// `img`, which `.img` alone does not have.
fn is_image(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|e| e.as_bytes() == b"img")
}

impl Reader<'_> {
    /// The usable images, sorted by name. Reports everything else.
    pub(super) fn images(&mut self, top: &Directory) -> Vec<Image> {
        let Some(directory) = self.directory(top, Path::new(DIRECTORY)) else {
            return Vec::new();
        };
        self.exposure.protect(&directory.place, DIRECTORY);
        self.note_extras(DIRECTORY, &directory.entries, |entry| is_image(&entry.name));
        let names = directory.entries.iter().map(|entry| entry.name.as_os_str());
        let names: Vec<_> = names.filter(|name| is_image(name)).collect();
        if names.is_empty() {
            self.problems.error(
                self.shown(DIRECTORY),
                "holds no disk image (no name ends in .img)",
                "put at least one raw disk image there, with a partition named 'root'",
            );
        }
        if names.len() > MAX_IMAGES {
            self.problems.error(
                self.shown(DIRECTORY),
                format!("holds {} disk images; a VM can have {MAX_IMAGES}", names.len()),
                "remove some, or join them as partitions of one image",
            );
            return Vec::new();
        }
        if let Some(contents) = &mut self.contents {
            contents.expect(names.len());
        }
        names.into_iter().filter_map(|name| self.image(&directory, name)).collect()
    }

    fn image(&mut self, directory: &Directory, name: &OsStr) -> Option<Image> {
        let entry = Path::new(DIRECTORY).join(name);
        let entry_text = match text::usable(entry.as_os_str()) {
            Ok(entry) => entry.to_owned(),
            Err(why) => {
                self.problems.error(self.shown(&entry), format!("the image's name {why}"), text::REMEDY);
                return None;
            }
        };
        let remedy = "put a raw disk image there, or a link to one";
        let found = self.find(directory, &entry, FileType::RegularFile, remedy)?;
        self.exposure.pass(&found, &entry);
        let length = QCOW2_MAGIC.len() as u64;
        match self.partition.qcow2.get(&found, length, |head| head == QCOW2_MAGIC) {
            Ok(false) => {
                let shown = self.shown(&entry);
                if let Some(contents) = &mut self.contents {
                    contents.image(&shown, &found);
                }
            }
            Ok(true) => self.problems.note(
                self.shown(&entry),
                "looks like a QCOW2 image, but the guest gets its bytes as they are",
                "convert it: qemu-img convert -O raw",
            ),
            Err(error) => {
                self.unreadable(&entry, &error);
                return None;
            }
        }
        match text::usable(found.path.as_os_str()) {
            Ok(path) => {
                self.stamps.push(FileStamp::new(&entry_text, &found.stat));
                Some(Image { path: self.keep(&entry, path)?, entry: self.keep(&entry, &entry_text)? })
            }
            Err(why) => {
                self.problems.error(found.path, format!("the image's path {why}"), text::REMEDY);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_ends_in_img() {
        for (name, image) in
            [("root.img", true), ("a.b.img", true), (".img", false), ("img", false), ("a.IMG", false)]
        {
            assert_eq!(is_image(OsStr::new(name)), image, "{name}");
        }
    }
}
