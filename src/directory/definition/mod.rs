// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM definition: one Spectrum VM directory, read and validated.
//!
//! Reading is the first stage of the data flow. It finds every problem of the
//! directory in one go; [`read`] returns a [`Definition`] only when none of them is
//! an error. The entries and their meaning are those of Spectrum ("Creating Custom
//! VMs"), each in a module of its own.

mod exposure;
mod heads;
mod images;
mod kernel;
mod location;
pub mod owner;
mod providers;
mod remembered;
mod shares;
mod text;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

pub use exposure::Exposure;
pub use kernel::KernelFormatError;
pub use location::{DATA_DIRECTORY, Location};
pub use remembered::{Memory, Remembered};

use self::exposure::{OwnExposure, PartitionExposure};
use self::heads::KnownHeads;
use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::directory::boundary::{Entry, Place, ResolveError, Resolved, Walker};
use crate::directory::budget::{Cost, Exceeded};
use crate::directory::contents::Contents;
use crate::directory::known::{Group, Notes};
use crate::directory::stamp::FileStamp;

/// The most disk images of one VM: each takes a slot of the guest's PCI bus, of
/// which QEMU's q35 has 30, and the other devices need some.
pub const MAX_IMAGES: usize = 12;
/// The most shared directories of one VM, for the same reason.
pub const MAX_SHARES: usize = 8;
/// The most network providers of one VM, for the same reason.
pub const MAX_PROVIDERS: usize = 4;

/// The most problems of one VM directory that are reported, each by itself.
pub const MAX_PROBLEMS: usize = 64;

/// How many unknown entries of one directory are reported by name; the rest is counted.
pub const MAX_NAMED_EXTRAS: usize = 8;

/// A disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its path within the VM directory, `blk/NAME.img`.
    pub entry: String,
    /// The path of its file on this host, free of links.
    pub path: String,
}

/// A shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The virtio-fs tag, 1 to 36 bytes of UTF-8.
    pub tag: String,
    /// Its link's path within the VM directory, `shared-dirs/TAG/dir`.
    pub entry: String,
    /// The path of the directory on this host, free of links.
    pub source: String,
}

/// A VM directory that has no errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The VM's name: that of the directory.
    pub name: VmName,
    /// Where the directory is.
    pub location: Location,
    /// The path of the kernel on this host, free of links.
    pub kernel: String,
    /// The disk images, sorted by the bytes of their names.
    pub images: Vec<Image>,
    /// The stamps of the kernel and the images, in this order.
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
    /// All errors and notes.
    pub problems: Problems,
    /// Whether there is a `wayland` entry, even in a directory with errors.
    pub wayland: bool,
    /// What a later scan can remember of it.
    pub remembered: Option<Box<Remembered>>,
    /// Whether it was remembered, rather than read.
    pub unchanged: bool,
}

/// Where the shared directories of a VM are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedDirectories {
    /// On this host, where they can be examined.
    Here,
    /// Perhaps only on the host that will run the VM: the text of an absolute link that
    /// leads off the user partition is judged here, its target when the VM starts.
    Elsewhere,
}

/// Reads the VM directory at `location`.
///
/// Writes nothing, opens nothing but regular files and directories, and reads no file
/// beyond its first kilobyte.
pub fn read(location: &Location, architecture: Architecture) -> Reading {
    Scan::new(architecture).read(location)
}

/// Reads many VM directories at about the same time, and examines only once what they
/// have in common.
#[derive(Debug)]
pub struct Scan {
    architecture: Architecture,
    shared: SharedDirectories,
    inside: bool,
    notes: Option<Rc<RefCell<Notes>>>,
    partitions: RefCell<Vec<Rc<Partition>>>,
}

/// What the VM directories of a user partition have in common.
#[derive(Debug)]
struct Partition {
    walker: Walker,
    exposure: RefCell<Option<Rc<PartitionExposure>>>,
    /// What the exposure depends on, if that was noted.
    group: RefCell<Option<Group>>,
    kernels: KnownHeads<Result<(), KernelFormatError>>,
    qcow2: KnownHeads<bool>,
}

impl Scan {
    /// A scan that has read nothing yet.
    pub fn new(architecture: Architecture) -> Self {
        Self {
            architecture,
            shared: SharedDirectories::Here,
            inside: false,
            notes: None,
            partitions: RefCell::default(),
        }
    }

    /// The same, with the shared directories there.
    #[must_use]
    pub fn with_shared(self, shared: SharedDirectories) -> Self {
        Self { shared, ..self }
    }

    /// The same, but it also looks [inside](Contents) the kernel and the images.
    #[must_use]
    pub fn looking_inside(self) -> Self {
        Self { inside: true, ..self }
    }

    /// The same, but it notes what each reading depends on.
    #[must_use]
    pub fn noting(self, notes: Option<Rc<RefCell<Notes>>>) -> Self {
        Self { notes, ..self }
    }

    /// Reads a VM directory, as [`read`] does.
    pub fn read(&self, location: &Location) -> Reading {
        let partition = self.partition(location);
        partition.walker.budget().next_vm();
        if let Some(notes) = &self.notes {
            notes.borrow_mut().begin();
        }
        let mut reader = Reader {
            location,
            architecture: self.architecture,
            shared: self.shared,
            partition: &partition,
            exposure: OwnExposure::default(),
            problems: Problems::default(),
            wayland: false,
            stamps: Vec::new(),
            contents: self.inside.then(Contents::default),
        };
        let definition = reader.read();
        let Reader { mut problems, wayland, .. } = reader;
        problems.limit(MAX_PROBLEMS, &location.directory());
        let definition = definition.filter(|_| !problems.has_errors());
        let noted = self.notes.as_ref().and_then(|notes| notes.borrow_mut().finish());
        let paid = partition.walker.budget().paid();
        let remembered = match (&definition, noted) {
            (Some(definition), Some(noted)) if problems.count() == 0 => {
                Some(Box::new(Remembered::new(definition, noted, paid)))
            }
            _ => None,
        };
        Reading { definition, problems, wayland, remembered, unchanged: false }
    }

    fn partition(&self, location: &Location) -> Rc<Partition> {
        let mut known = self.partitions.borrow_mut();
        if let Some(found) = known.iter().find(|p| *p.walker.boundary() == location.boundary) {
            return Rc::clone(found);
        }
        let walker = Walker::new(location.boundary.clone()).noting(self.notes.clone());
        let partition = Rc::new(Partition {
            walker,
            exposure: RefCell::default(),
            group: RefCell::default(),
            kernels: KnownHeads::default(),
            qcow2: KnownHeads::default(),
        });
        known.push(Rc::clone(&partition));
        partition
    }
}

impl Partition {
    fn exposure(&self) -> Rc<PartitionExposure> {
        let mut known = self.exposure.borrow_mut();
        let find = || self.walker.budget().for_all(|| Rc::new(PartitionExposure::of(&self.walker)));
        let find = || match self.walker.notes() {
            Some(notes) => {
                let (found, group) = Notes::apart(notes, find);
                *self.group.borrow_mut() = group;
                found
            }
            None => find(),
        };
        Rc::clone(known.get_or_insert_with(find))
    }
}

/// What the modules of the entries share while one VM directory is read.
struct Reader<'a> {
    location: &'a Location,
    architecture: Architecture,
    shared: SharedDirectories,
    partition: &'a Partition,
    exposure: OwnExposure,
    problems: Problems,
    wayland: bool,
    stamps: Vec<FileStamp>,
    contents: Option<Contents>,
}

/// A directory of the VM directory, and what is in it.
struct Directory {
    place: Place,
    entries: Vec<Entry>,
}

impl Directory {
    fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

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
        let top = self.top()?;
        self.wayland = top.get("wayland").is_some();
        self.exposure.protect_vm(&top.place, self.location.relative.as_os_str().is_empty());
        let kernel = self.kernel(&top);
        let images = self.images(&top);
        if let Some(contents) = self.contents.take() {
            self.problems.extend(contents.problems(&self.shown(images::DIRECTORY)).into_sorted());
        }
        let network_providers = self.providers(&top, name.as_ref());
        // Last, when everything that must not be shared is known.
        let shares = self.shares(&top);
        self.note_extras("", &top.entries, |e| {
            ["vmlinux", "blk", "shared-dirs", "providers", "wayland"].iter().any(|known| e.name == *known)
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

    /// The path of an entry of the VM directory, as problems show it.
    fn shown(&self, entry: impl AsRef<Path>) -> PathBuf {
        let directory = self.location.directory();
        if entry.as_ref().as_os_str().is_empty() { directory } else { directory.join(entry) }
    }

    /// Follows `entry`, which lies in `directory`, to a file of the `wanted` type; `None`
    /// after reporting that there is none. Then the user should follow `remedy`.
    fn find(
        &mut self,
        directory: &Directory,
        entry: &Path,
        wanted: FileType,
        remedy: &str,
    ) -> Option<Resolved> {
        let name = entry.file_name().unwrap_or_default();
        let known = directory.entries.iter().find(|known| known.name == name).cloned();
        let name = known.unwrap_or_else(|| Entry::new(name));
        let found = self.partition.walker.resolve_from(&directory.place, &name);
        let found = self.found(entry, found)?;
        if found.file_type() != wanted {
            self.not_a(wanted, entry, &(found.file_type(), found.path), remedy);
            return None;
        }
        Some(found)
    }

    /// What was found; `None` after reporting why nothing was.
    fn found<T>(&mut self, entry: &Path, found: Result<T, ResolveError>) -> Option<T> {
        found.map_err(|error| self.problems.push(error.problem(&self.shown(entry)))).ok()
    }

    /// Reports that `entry` leads to a file of another type, at `path`.
    fn not_a(&mut self, wanted: FileType, entry: &Path, (found, path): &(FileType, PathBuf), remedy: &str) {
        let shown = self.shown(entry);
        let verb = if *path == shown { "is" } else { "leads to" };
        let cause = format!("{verb} {}, not {}", describe(*found), describe(wanted));
        self.problems.error(shown, cause, remedy);
    }

    fn unreadable(&mut self, entry: impl AsRef<Path>, error: &io::Error) {
        self.problems.error(
            self.shown(entry),
            format!("cannot be read: {error}"),
            "give the user who runs the VM permission to read it",
        );
    }

    /// The VM directory; `None` after reporting why it cannot be read.
    fn top(&mut self) -> Option<Directory> {
        let place = self.partition.walker.enter(&self.location.relative);
        self.listed(Path::new(""), place)
    }

    /// The directory at an entry; `None` after reporting why it cannot be read.
    fn directory(&mut self, parent: &Directory, entry: &Path) -> Option<Directory> {
        let name = entry.file_name().unwrap_or_default();
        let known = parent.entries.iter().find(|known| known.name == name).cloned();
        let place =
            self.partition.walker.enter_from(&parent.place, &known.unwrap_or_else(|| Entry::new(name)));
        self.listed(entry, place)
    }

    fn listed(&mut self, entry: &Path, place: Result<Place, ResolveError>) -> Option<Directory> {
        let place = self.found(entry, place)?;
        if place.file_type() != FileType::Directory {
            let found = (place.file_type(), place.path());
            self.not_a(FileType::Directory, entry, &found, "replace it by a directory");
            return None;
        }
        match place.list(self.partition.walker.budget()) {
            Ok(entries) => Some(Directory { place, entries }),
            Err(ResolveError::Io { error, .. }) => {
                self.unreadable(entry, &error);
                None
            }
            Err(error) => self.found(entry, Err(error)),
        }
    }

    /// Pays for a text that the definition keeps; `None` after reporting that it is too much.
    fn keep(&mut self, entry: impl AsRef<Path>, text: &str) -> Option<String> {
        match self.partition.walker.budget().pay(Cost::Bytes, printable(text).len()) {
            Ok(()) => Some(text.to_owned()),
            Err(exceeded) => {
                self.problems.error(self.shown(entry), exceeded.to_string(), Exceeded::REMEDY);
                None
            }
        }
    }

    /// Notes the entries that are not `known`, the first few by name.
    fn note_extras(&mut self, parent: impl AsRef<Path>, entries: &[Entry], known: impl Fn(&Entry) -> bool) {
        let extras: Vec<_> = entries.iter().filter(|e| !known(e)).collect();
        for extra in extras.iter().take(MAX_NAMED_EXTRAS) {
            let path = self.shown(parent.as_ref().join(&extra.name));
            self.problems.push(Problem::note(
                path,
                "is not part of a Spectrum VM directory; it is ignored",
                "remove it, or correct its name",
            ));
        }
        if let Some(more) = extras.len().checked_sub(MAX_NAMED_EXTRAS).filter(|n| *n > 0) {
            let path = self.shown(parent);
            self.problems.note(path, format!("{more} more entries are ignored"), "remove them");
        }
    }
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
