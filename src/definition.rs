// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM definition: one Spectrum VM directory, read and validated.
//!
//! Reading is the first stage of the data's way. It finds every problem of the
//! directory in one go; [`read`] gives a [`Definition`] only when none of them
//! is an error. The entries and their meaning are those of Spectrum ("Creating
//! Custom VMs"), one module for each.

mod exposure;
mod images;
mod kernel;
mod location;
mod providers;
mod shares;
mod text;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

pub use exposure::Exposure;
pub use kernel::KernelFormatError;
pub use location::{DATA_DIRECTORY, Location};

use crate::architecture::Architecture;
use crate::boundary::{Boundary, ResolveError, Resolved};
use crate::name::VmName;
use crate::problem::{Problem, Problems};
use crate::stamp::FileStamp;

/// The most disk images of one VM: each takes a slot of the guest's PCI bus, of
/// which QEMU's q35 has 30, and the other devices need some.
pub const MAX_IMAGES: usize = 12;
/// The most shared directories of one VM, for the same reason.
pub const MAX_SHARES: usize = 8;
/// The most network providers of one VM, for the same reason.
pub const MAX_PROVIDERS: usize = 4;

/// How many other entries of one directory are named before the rest is only counted.
pub const MAX_NAMED_EXTRAS: usize = 8;

/// A disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its path within the VM directory, `blk/NAME.img`.
    pub entry: String,
    /// The file that it is, free of links, on this host.
    pub path: String,
}

/// A shared directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The virtio-fs tag, 1 to 36 bytes of UTF-8.
    pub tag: String,
    /// Its link's path within the VM directory, `shared-dirs/TAG/dir`.
    pub entry: String,
    /// The directory that it is, free of links, on this host.
    pub source: String,
}

/// One VM directory without errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The VM's name: the directory's.
    pub name: VmName,
    /// Where the directory is.
    pub location: Location,
    /// The kernel's file, free of links, on this host.
    pub kernel: String,
    /// The disk images, sorted by the bytes of their names.
    pub images: Vec<Image>,
    /// What the kernel and the images were, in this order.
    pub stamps: Vec<FileStamp>,
    /// The shared directories, sorted by tag.
    pub shares: Vec<Share>,
    /// The VMs that provide this one's networks, sorted by name.
    pub network_providers: Vec<VmName>,
    /// Whether the guest shows windows on the host's Wayland compositor.
    pub wayland: bool,
}

/// The result of reading one VM directory.
#[derive(Debug)]
pub struct Reading {
    /// The definition, unless there are errors.
    pub definition: Option<Definition>,
    /// Everything that was found wrong or worth knowing.
    pub problems: Problems,
    /// Whether there is a `wayland` entry, also in a directory with errors.
    pub wayland: bool,
}

/// Reads the VM directory at `location`.
///
/// Nothing is written, nothing but regular files and directories is opened,
/// and no file is read beyond its first kilobyte.
pub fn read(location: &Location, architecture: Architecture) -> Reading {
    let mut reader =
        Reader { location, architecture, problems: Problems::default(), wayland: false, stamps: Vec::new() };
    let definition = reader.read();
    let Reader { problems, wayland, .. } = reader;
    Reading { definition: definition.filter(|_| !problems.has_errors()), problems, wayland }
}

/// The state that the modules of the single entries share.
struct Reader<'a> {
    location: &'a Location,
    architecture: Architecture,
    problems: Problems,
    wayland: bool,
    stamps: Vec<FileStamp>,
}

/// One name in a directory.
type Entry = OsString;

impl Reader<'_> {
    fn read(&mut self) -> Option<Definition> {
        let name = match VmName::new(self.location.file_name()) {
            Ok(name) => Some(name),
            Err(error) => {
                self.problems.error(
                    self.location.directory(),
                    error.to_string(),
                    "rename the directory: letters, digits, '_', '.' and '-', at most 64, \
                     beginning with a letter, a digit or '_'",
                );
                None
            }
        };
        let entries = self.directory("")?;
        let has = |name: &str| entries.iter().any(|e| e == name);
        self.wayland = has("wayland");
        let kernel = self.kernel();
        let images = self.images();
        let shares = if has("shared-dirs") { self.shares(&images) } else { Vec::new() };
        let network_providers = if has("providers") { self.providers(name.as_ref()) } else { Vec::new() };
        self.note_extras("", &entries, |e| {
            ["vmlinux", "blk", "shared-dirs", "providers", "wayland"].iter().any(|known| e == *known)
        });
        Some(Definition {
            name: name?,
            location: self.location.clone(),
            kernel: kernel?,
            images,
            stamps: std::mem::take(&mut self.stamps),
            shares,
            network_providers,
            wayland: self.wayland,
        })
    }

    fn boundary(&self) -> &Boundary {
        &self.location.boundary
    }

    /// The path to show for an entry of the VM directory.
    fn shown(&self, entry: impl AsRef<Path>) -> PathBuf {
        let directory = self.location.directory();
        if entry.as_ref().as_os_str().is_empty() { directory } else { directory.join(entry) }
    }

    fn resolve(&self, entry: impl AsRef<Path>) -> Result<Resolved, ResolveError> {
        self.boundary().resolve(&self.location.relative.join(entry))
    }

    /// Follows an entry to what must be there; `None` after reporting what is not.
    fn find(&mut self, entry: impl AsRef<Path>, wanted: FileType, remedy: &str) -> Option<Resolved> {
        let shown = self.shown(&entry);
        match self.resolve(&entry) {
            Ok(found) if found.file_type() == wanted => Some(found),
            Ok(found) => {
                let verb = if found.path == shown { "is" } else { "leads to" };
                let cause = format!("{verb} {}, not {}", describe(found.file_type()), describe(wanted));
                self.problems.error(shown, cause, remedy);
                None
            }
            Err(error) => {
                self.problems.push(error.problem(&shown));
                None
            }
        }
    }

    fn unreadable(&mut self, entry: impl AsRef<Path>, error: &io::Error) {
        self.problems.error(
            self.shown(entry),
            format!("cannot be read: {error}"),
            "give the user who runs the VM permission to read it",
        );
    }

    /// The sorted names in a directory; `None` after reporting why there are none.
    fn directory(&mut self, entry: impl AsRef<Path>) -> Option<Vec<Entry>> {
        let entry = entry.as_ref();
        let found = self.find(entry, FileType::Directory, "replace it by a directory")?;
        match found.open_directory().and_then(list) {
            Ok(entries) => Some(entries),
            Err(error) => {
                self.unreadable(entry, &error);
                None
            }
        }
    }

    /// Notes the entries that mean nothing, the first few by name.
    fn note_extras(&mut self, parent: impl AsRef<Path>, entries: &[Entry], known: impl Fn(&Entry) -> bool) {
        let extras: Vec<_> = entries.iter().filter(|e| !known(e)).collect();
        for extra in extras.iter().take(MAX_NAMED_EXTRAS) {
            let path = self.shown(parent.as_ref().join(extra));
            self.problems.push(Problem::note(
                path,
                "means nothing in a Spectrum VM directory and is ignored",
                "remove it, or correct its name",
            ));
        }
        if let Some(more) = extras.len().checked_sub(MAX_NAMED_EXTRAS).filter(|n| *n > 0) {
            let path = self.shown(parent);
            self.problems.note(path, format!("{more} more entries are ignored"), "remove them");
        }
    }
}

/// The sorted names in the directory `fd`, without `.` and `..`.
fn list(fd: OwnedFd) -> io::Result<Vec<Entry>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A file type in words, with its article.
fn describe(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "of an unknown type",
    }
}
