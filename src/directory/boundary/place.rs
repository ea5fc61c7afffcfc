// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A place that a walk has reached, and one step from it.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::{FileId, ResolveError, Resolved, file_id};
use crate::directory::budget::{Budget, Cost};

/// How much of a directory one system call lists, in bytes.
const LISTING_BYTES: usize = 16 * 1024;

/// A directory at which walks begin.
#[derive(Debug)]
pub(super) struct Root {
    pub path: PathBuf,
    pub fd: OwnedFd,
    pub stat: Stat,
    /// The status of all directories that contain it.
    pub outer: Vec<Stat>,
    /// Its number in the notes, if it is in them.
    pub node: Cell<Option<u32>>,
}

/// A file that a step has opened.
#[derive(Debug)]
pub(super) struct Entered {
    pub name: OsString,
    pub fd: OwnedFd,
    pub stat: Stat,
    /// Its number in the notes, if it is in them.
    pub node: Cell<Option<u32>>,
    /// Whether the descriptor can list the directory, rather than only be walked from.
    listable: bool,
}

/// A place from which a walk can go on: a root and the names entered beneath it.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) root: Rc<Root>,
    pub(super) entered: Vec<Rc<Entered>>,
    pub(super) through: Vec<FileId>,
    /// The links that the walk has followed.
    pub(super) links: Vec<Followed>,
}

/// A link that a walk has followed.
#[derive(Debug, Clone)]
pub struct Followed {
    /// The number of its directory in the notes, if it is in them.
    pub(super) parent: Option<u32>,
    pub(super) name: OsString,
    /// Its own status.
    pub(super) stat: Stat,
}

impl Followed {
    /// Who made it: the user id of its owner.
    pub fn owner(&self) -> u32 {
        self.stat.st_uid
    }
}

/// A name in a directory, and its most likely type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    pub(super) likely: Likely,
}

/// The type of a name, if it has not changed since the directory was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likely {
    Directory,
    Unknown,
}

/// A link that a step has read.
pub(super) struct Link {
    pub target: PathBuf,
    /// Its own status.
    pub stat: Stat,
}

/// The result of one step.
pub(super) enum Step {
    /// A file that is not a link.
    Into(Rc<Entered>),
    /// A link.
    Link(Link),
}

impl Root {
    /// Opens a directory that the administrator named, so that links in its path are
    /// trusted. Finds the directories that contain it if the walk `keeps_path`.
    pub fn open(path: &Path, keeps_path: bool) -> Result<Self, ResolveError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |error| io_error(path, error);
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let mut outer = if keeps_path { ancestors(fd.as_fd()) } else { Vec::new() };
        outer.drain(..outer.len().min(1));
        Ok(Self { path: path.to_owned(), fd, stat, outer, node: Cell::new(None) })
    }
}

impl Entered {
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

impl Place {
    pub(super) fn start(root: Rc<Root>) -> Self {
        let through = root.outer.iter().map(file_id).collect();
        Self { root, entered: Vec::new(), through, links: Vec::new() }
    }

    /// See [`Resolved::path`].
    pub fn path(&self) -> PathBuf {
        let mut path = self.root.path.clone();
        path.extend(self.entered.iter().map(|entered| &entered.name));
        path
    }

    /// Its status when the walk came there.
    pub fn stat(&self) -> &Stat {
        self.entered.last().map_or(&self.root.stat, |entered| &entered.stat)
    }

    /// What kind of file it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat().st_mode)
    }

    /// See [`Resolved::through`].
    pub fn through(&self) -> &[FileId] {
        &self.through
    }

    /// Its number in the notes, if it is in them.
    pub(super) fn node(&self) -> Option<u32> {
        self.entered.last().map_or(&self.root.node, |entered| &entered.node).get()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.entered.last().map_or(self.root.fd.as_fd(), |entered| entered.fd.as_fd())
    }

    /// The entries of this directory, sorted by name, without `.` and `..`; each is paid
    /// from the budget. To be called once.
    ///
    /// # Errors
    /// When it is not a directory (`ENOTDIR`), or cannot be opened or listed, or has more
    /// entries than there is budget.
    pub fn list(&self, budget: &Budget) -> Result<Vec<Entry>, ResolveError> {
        let failed = |error: Errno| ResolveError::Io { path: self.path(), error: error.into() };
        match self.entered.last() {
            Some(entered) if entered.listable => list(entered.fd.as_fd(), budget, failed),
            _ => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(self.fd(), ".", flags, Mode::empty()).map_err(failed)?;
                list(opened.as_fd(), budget, failed)
            }
        }
    }

    /// The status of an entry of this directory, without following it.
    ///
    /// # Errors
    /// When `fstatat(2)` fails, such as for an entry that was removed meanwhile.
    pub fn look_at(&self, entry: &Entry) -> io::Result<Stat> {
        Ok(rustix::fs::statat(self.fd(), &entry.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The text of a link in this directory.
    ///
    /// # Errors
    /// When the entry is not a link, or was removed meanwhile.
    pub fn read_link(&self, entry: &Entry) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(self.fd(), &entry.name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Opens `name` in this directory without following it, and returns the name with
    /// the result.
    pub(super) fn step(&mut self, name: OsString, likely: Likely) -> Result<(OsString, Step), ResolveError> {
        if self.file_type() != FileType::Directory {
            return Err(ResolveError::NotADirectory(self.path()));
        }
        self.through.push(file_id(self.stat()));
        let here = self.fd();
        let failed = |error| io_error(&self.path().join(&name), error);
        // One name, neither `..` nor with a slash, and no link is followed: openat2(2)
        // would add nothing, and systemd's RestrictSUIDSGID= forbids it.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match likely {
            // Opens nothing but a directory, which has no effects either.
            Likely::Directory => {
                let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY;
                rustix::fs::openat(here, &name, flags, Mode::empty())
            }
            Likely::Unknown => Err(Errno::NOTDIR),
        };
        let listable = opened.is_ok();
        let fd = opened
            .or_else(|_| rustix::fs::openat(here, &name, flags | OFlags::PATH, Mode::empty()))
            .map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let text = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(failed)?;
            let target = PathBuf::from(OsString::from_vec(text.into_bytes()));
            return Ok((name, Step::Link(Link { target, stat })));
        }
        let entered = Entered { name: name.clone(), fd, stat, node: Cell::new(None), listable };
        Ok((name, Step::Into(Rc::new(entered))))
    }

    pub(super) fn into_resolved(mut self) -> Result<Resolved, ResolveError> {
        let path = self.path();
        let stat = *self.stat();
        let fd = match self.entered.pop().map(Rc::try_unwrap) {
            Some(Ok(entered)) => Ok(entered.fd),
            Some(Err(shared)) => shared.fd.try_clone(),
            None => self.root.fd.try_clone(),
        };
        match fd {
            Ok(fd) => Ok(Resolved { fd, path, stat, through: self.through, links: self.links }),
            Err(error) => Err(ResolveError::Io { path, error }),
        }
    }
}

impl Entry {
    /// An entry of unknown type.
    pub fn new(name: impl Into<OsString>) -> Self {
        Self { name: name.into(), likely: Likely::Unknown }
    }
}

/// How to open `..` of a directory.
pub(super) const UP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The status of a directory and of all that contain it, up to the root.
pub fn ancestors(directory: BorrowedFd<'_>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut here: Option<OwnedFd> = None;
    loop {
        let fd = here.as_ref().map_or(directory, OwnedFd::as_fd);
        let Ok(stat) = rustix::fs::fstat(fd) else { break };
        // `/..` is `/`; nothing lies deeper than a path can be long.
        if found.last().is_some_and(|last| file_id(last) == file_id(&stat)) || found.len() > 4096 {
            break;
        }
        found.push(stat);
        let Ok(up) = rustix::fs::openat(fd, "..", UP, Mode::empty()) else { break };
        here = Some(up);
    }
    found
}

/// The sorted entries of the directory `fd`, without `.` and `..`.
fn list(
    fd: BorrowedFd<'_>,
    budget: &Budget,
    failed: impl Fn(Errno) -> ResolveError,
) -> Result<Vec<Entry>, ResolveError> {
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = Vec::new();
    let mut directory = RawDir::new(fd, &mut buffer);
    while let Some(entry) = directory.next() {
        let entry = entry.map_err(&failed)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        budget.pay(Cost::Entries, 1)?;
        let likely = match entry.file_type() {
            FileType::Directory => Likely::Directory,
            _ => Likely::Unknown,
        };
        entries.push(Entry { name: OsStr::from_bytes(name).to_owned(), likely });
    }
    entries.sort_unstable();
    Ok(entries)
}

fn io_error(path: &Path, errno: Errno) -> ResolveError {
    match errno {
        Errno::NOENT => ResolveError::Missing(path.to_owned()),
        Errno::NOTDIR => ResolveError::NotADirectory(path.to_owned()),
        errno => ResolveError::Io { path: path.to_owned(), error: errno.into() },
    }
}
