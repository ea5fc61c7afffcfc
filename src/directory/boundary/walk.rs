// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The walk along the names of a path, within a boundary.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::{Boundary, FileId, ResolveError, Resolved, file_id};

/// The most links that one walk follows, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;
/// How many directories a [`Walker`] remembers: those that many links lead through.
const MAX_REMEMBERED: usize = 32;
/// How much of a directory is read at once.
const LISTING_BYTES: usize = 16 * 1024;

/// Walks within one boundary.
///
/// A walker remembers the directories that walks begin at, and some that links
/// lead through, as they were when it first came there: many walks then cost
/// little more than their last steps. So one walker is for one look at many
/// files at about the same time, and what is used later is walked to anew.
#[derive(Debug)]
pub struct Walker {
    boundary: Boundary,
    /// Whether anybody wants to know what walks pass through.
    tells_ways: bool,
    roots: RefCell<Vec<Rc<Root>>>,
    /// Directories by where they lie and their name; the last used come last.
    passed: RefCell<Vec<(FileId, Rc<Entered>)>>,
    /// Directories, with all that they lie in; the last used come last.
    outer: RefCell<Vec<Rc<[FileId]>>>,
}

/// A directory that walks begin at.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    fd: OwnedFd,
    stat: Stat,
    /// What it lies in.
    outer: Vec<FileId>,
}

/// What a walk has come to.
#[derive(Debug)]
struct Entered {
    name: OsString,
    fd: OwnedFd,
    stat: Stat,
    /// Whether the descriptor is good for listing, and not only for walking.
    listable: bool,
}

/// Where a walk is, and can be gone on with: a root and the names entered
/// beneath it.
#[derive(Debug, Clone)]
pub struct Place {
    root: Rc<Root>,
    entered: Vec<Rc<Entered>>,
    through: Vec<FileId>,
    links: usize,
}

/// One name in a directory, and what it most likely is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: OsString,
    likely: Likely,
}

/// What a name is when nothing has changed since that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likely {
    Directory,
    Link,
    Unknown,
}

/// What one step has found.
enum Step {
    Into(Rc<Entered>),
    Link(PathBuf),
}

impl Walker {
    /// A walker that remembers nothing yet.
    pub fn new(boundary: Boundary) -> Self {
        Self {
            boundary,
            tells_ways: true,
            roots: RefCell::default(),
            passed: RefCell::default(),
            outer: RefCell::default(),
        }
    }

    /// A walker whose results are opened, and which way led there is left out.
    pub fn only_to_open(boundary: Boundary) -> Self {
        Self { tells_ways: false, ..Self::new(boundary) }
    }

    /// Where it keeps to.
    pub fn boundary(&self) -> &Boundary {
        &self.boundary
    }

    /// Walks `relative`, a path beneath the user partition, following links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&self, relative: &Path) -> Result<Resolved, ResolveError> {
        let start = Place::start(self.root(&self.boundary.user_partition)?);
        self.walk(start, names_of(relative), Likely::Unknown, relative)?.into_resolved()
    }

    /// Goes on from `place` to what its `entry` is, following links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve_from(&self, place: &Place, entry: &Entry) -> Result<Resolved, ResolveError> {
        self.go_on(place, entry)?.into_resolved()
    }

    /// Walks `relative`, a path beneath the user partition, to a directory.
    ///
    /// # Errors
    /// See [`ResolveError`]; what is there may also be no directory.
    pub fn enter(&self, relative: &Path) -> Result<Place, ResolveError> {
        let start = Place::start(self.root(&self.boundary.user_partition)?);
        self.walk(start, names_of(relative), Likely::Directory, relative)
    }

    /// Goes on from `place` to the directory that its `entry` is.
    ///
    /// # Errors
    /// See [`ResolveError`]; what is there may also be no directory.
    pub fn enter_from(&self, place: &Place, entry: &Entry) -> Result<Place, ResolveError> {
        self.go_on(place, entry)
    }

    fn go_on(&self, place: &Place, Entry { name, likely }: &Entry) -> Result<Place, ResolveError> {
        self.walk(place.clone(), VecDeque::from([name.clone()]), *likely, Path::new(name))
    }

    /// The ids of a directory and of all that it lies in.
    pub fn lies_in(&self, directory: &Resolved) -> Vec<FileId> {
        let mut found = vec![file_id(&directory.stat)];
        let Ok(parent) = rustix::fs::openat(&directory.fd, "..", UP, Mode::empty()) else { return found };
        let Ok(stat) = rustix::fs::fstat(&parent) else { return found };
        let id = file_id(&stat);
        let mut known = self.outer.borrow_mut();
        let chain = match known.iter().position(|chain| chain.first() == Some(&id)) {
            Some(at) => known.remove(at),
            None => ancestors(parent.as_fd()).iter().map(file_id).collect(),
        };
        found.extend(chain.iter());
        remember(&mut known, chain);
        found
    }

    fn root(&self, path: &Path) -> Result<Rc<Root>, ResolveError> {
        if let Some(root) = self.roots.borrow().iter().find(|root| root.path == path) {
            return Ok(Rc::clone(root));
        }
        let root = Rc::new(Root::open(path, self.tells_ways)?);
        self.roots.borrow_mut().push(Rc::clone(&root));
        Ok(root)
    }

    fn walk(
        &self,
        mut here: Place,
        mut ahead: VecDeque<OsString>,
        likely: Likely,
        shown: &Path,
    ) -> Result<Place, ResolveError> {
        let mut last_link = (shown.to_owned(), PathBuf::from(".."));
        // What is likely was told of the last name of what is asked for.
        let mut likely = Some(likely);
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                if here.entered.pop().is_none() {
                    let (link, target) = last_link;
                    return Err(ResolveError::Outside { link, target });
                }
                continue;
            }
            let step = if ahead.is_empty() {
                here.step(name, likely.take().unwrap_or(Likely::Unknown))?
            } else {
                self.pass(&mut here, name)?
            };
            let (link, target) = match step {
                (_, Step::Into(entered)) => {
                    here.entered.push(entered);
                    continue;
                }
                (name, Step::Link(target)) => (here.path().join(name), target),
            };
            here.links += 1;
            if here.links > MAX_LINKS {
                return Err(ResolveError::Loop(link));
            }
            let mut names = if target.is_absolute() {
                let Some((place, rest)) = self.boundary.place_of(&target) else {
                    return Err(ResolveError::Outside { link, target });
                };
                let root = self.root(&place)?;
                here.through.extend(&root.outer);
                here = Place { root, entered: Vec::new(), ..here };
                names_of(&rest)
            } else {
                names_of(&target)
            };
            last_link = (link, target);
            names.append(&mut ahead);
            ahead = names;
        }
        Ok(here)
    }

    /// Steps to a name that is not the last, most likely a directory.
    fn pass(&self, here: &mut Place, name: OsString) -> Result<(OsString, Step), ResolveError> {
        let parent = file_id(here.stat());
        let known = self.passed.borrow().iter().position(|(id, to)| *id == parent && to.name == name);
        if let Some(at) = known {
            let mut passed = self.passed.borrow_mut();
            let (_, entered) = passed.remove(at);
            here.through.push(parent);
            passed.push((parent, Rc::clone(&entered)));
            return Ok((name, Step::Into(entered)));
        }
        let step = here.step(name, Likely::Unknown)?;
        if let (_, Step::Into(entered)) = &step
            && entered.is_directory()
        {
            remember(&mut self.passed.borrow_mut(), (parent, Rc::clone(entered)));
        }
        Ok(step)
    }
}

fn remember<T>(known: &mut Vec<T>, new: T) {
    if known.len() >= MAX_REMEMBERED {
        known.remove(0);
    }
    known.push(new);
}

impl Root {
    /// Opens a directory that the administrator named; links in *its* path are his.
    fn open(path: &Path, tells_way: bool) -> Result<Self, ResolveError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |error| io_error(path, error);
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let outer = if tells_way { ancestors(fd.as_fd()) } else { Vec::new() };
        let outer = outer.iter().skip(1).map(file_id).collect();
        Ok(Self { path: path.to_owned(), fd, stat, outer })
    }
}

impl Entered {
    fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

impl Place {
    fn start(root: Rc<Root>) -> Self {
        let through = root.outer.clone();
        Self { root, entered: Vec::new(), through, links: 0 }
    }

    /// Its path on this host when it was walked to, free of links beneath the
    /// place where it was found.
    pub fn path(&self) -> PathBuf {
        let mut path = self.root.path.clone();
        path.extend(self.entered.iter().map(|entered| &entered.name));
        path
    }

    /// What it was when it was walked to.
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

    fn fd(&self) -> BorrowedFd<'_> {
        self.entered.last().map_or(self.root.fd.as_fd(), |entered| entered.fd.as_fd())
    }

    /// The entries of this directory, sorted by name, without `.` and `..`.
    /// To be called once.
    ///
    /// # Errors
    /// The system's error, `ENOTDIR` when it is not a directory.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        match self.entered.last() {
            Some(entered) if entered.listable => list(entered.fd.as_fd()),
            _ => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                list(rustix::fs::openat(self.fd(), ".", flags, Mode::empty())?.as_fd())
            }
        }
    }

    /// Looks at an entry of this directory without following it.
    ///
    /// # Errors
    /// The system's error.
    pub fn look_at(&self, entry: &Entry) -> io::Result<Stat> {
        Ok(rustix::fs::statat(self.fd(), &entry.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The text of a link in this directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_link(&self, entry: &Entry) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(self.fd(), &entry.name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Opens `name` in this directory without following it; gives it back.
    fn step(&mut self, name: OsString, likely: Likely) -> Result<(OsString, Step), ResolveError> {
        if self.file_type() != FileType::Directory {
            return Err(ResolveError::NotADirectory(self.path()));
        }
        self.through.push(file_id(self.stat()));
        let here = self.fd();
        let failed = |error| io_error(&self.path().join(&name), error);
        let target = |bytes: std::ffi::CString| PathBuf::from(OsString::from_vec(bytes.into_bytes()));
        // One name, which is no `..` and has no slash, and nothing is followed: what
        // openat2(2) would add is nothing, and systemd's RestrictSUIDSGID= forbids it.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = Err(Errno::NOTDIR);
        match likely {
            Likely::Link => {
                if let Ok(text) = rustix::fs::readlinkat(here, &name, Vec::new()) {
                    return Ok((name, Step::Link(target(text))));
                }
            }
            // Nothing but a directory is opened, which has no effects either.
            Likely::Directory => {
                let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY;
                opened = rustix::fs::openat(here, &name, flags, Mode::empty());
            }
            Likely::Unknown => {}
        }
        let listable = opened.is_ok();
        let fd = opened
            .or_else(|_| rustix::fs::openat(here, &name, flags | OFlags::PATH, Mode::empty()))
            .map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            let text = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(failed)?;
            return Ok((name, Step::Link(target(text))));
        }
        let entered = Entered { name: name.clone(), fd, stat, listable };
        Ok((name, Step::Into(Rc::new(entered))))
    }

    fn into_resolved(mut self) -> Result<Resolved, ResolveError> {
        let path = self.path();
        let stat = *self.stat();
        let fd = match self.entered.pop().map(Rc::try_unwrap) {
            Some(Ok(entered)) => Ok(entered.fd),
            Some(Err(shared)) => shared.fd.try_clone(),
            None => self.root.fd.try_clone(),
        };
        match fd {
            Ok(fd) => Ok(Resolved { fd, path, stat, through: self.through }),
            Err(error) => Err(ResolveError::Io { path, error }),
        }
    }
}

impl Entry {
    /// An entry of which nothing but its name is known.
    pub fn new(name: impl Into<OsString>) -> Self {
        Self { name: name.into(), likely: Likely::Unknown }
    }
}

const UP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The directory itself and all that it lies in, up to the root.
pub fn ancestors(directory: BorrowedFd<'_>) -> Vec<Stat> {
    let mut found: Vec<Stat> = Vec::new();
    let mut here: Option<OwnedFd> = None;
    loop {
        let fd = here.as_ref().map_or(directory, OwnedFd::as_fd);
        let Ok(stat) = rustix::fs::fstat(fd) else { break };
        // The root lies in itself; nothing lies deeper than a path can be long.
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
fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
    let mut buffer = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut entries = Vec::new();
    let mut directory = RawDir::new(fd, &mut buffer);
    while let Some(entry) = directory.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let likely = match entry.file_type() {
            FileType::Directory => Likely::Directory,
            FileType::Symlink => Likely::Link,
            _ => Likely::Unknown,
        };
        entries.push(Entry { name: OsStr::from_bytes(name).to_owned(), likely });
    }
    entries.sort_unstable();
    Ok(entries)
}

/// The names of a path, in order; `.` and the root are left out.
pub(super) fn names_of(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn io_error(path: &Path, errno: Errno) -> ResolveError {
    match errno {
        Errno::NOENT => ResolveError::Missing(path.to_owned()),
        Errno::NOTDIR => ResolveError::NotADirectory(path.to_owned()),
        errno => ResolveError::Io { path: path.to_owned(), error: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn walker() -> (tempfile::TempDir, PathBuf, Walker) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let partition = root.join("partition");
        fs::create_dir_all(partition.join("vm/entry")).unwrap();
        fs::create_dir_all(partition.join("inside")).unwrap();
        fs::create_dir_all(root.join("outside")).unwrap();
        let boundary = Boundary { user_partition: partition.clone(), allowed: Vec::new() };
        (dir, partition, Walker::new(boundary))
    }

    fn entry(place: &Place) -> Entry {
        place.list().unwrap().into_iter().find(|entry| entry.name == "entry").unwrap()
    }

    #[test]
    fn what_an_entry_was_when_it_was_listed_decides_nothing() {
        let (_guard, partition, walker) = walker();
        let path = partition.join("vm/entry");
        let enter = |entry: &Entry| {
            walker.enter_from(&walker.enter(Path::new("vm")).unwrap(), entry).map(|place| place.path())
        };
        let directory = entry(&walker.enter(Path::new("vm")).unwrap());
        assert_eq!(directory.likely, Likely::Directory);
        assert_eq!(enter(&directory).unwrap(), path);
        fs::remove_dir(&path).unwrap();
        for (target, inside) in [("../inside", true), ("../../outside", false), ("/etc", false)] {
            symlink(target, &path).unwrap();
            match enter(&directory) {
                Ok(found) => assert!(inside && found == partition.join("inside"), "{target}"),
                Err(error) => assert!(!inside && matches!(error, ResolveError::Outside { .. }), "{target}"),
            }
            fs::remove_file(&path).unwrap();
        }
        symlink("../../outside", &path).unwrap();
        let link = entry(&walker.enter(Path::new("vm")).unwrap());
        assert_eq!(link.likely, Likely::Link);
        fs::remove_file(&path).unwrap();
        assert!(matches!(enter(&link), Err(ResolveError::Missing(_))));
        fs::create_dir(&path).unwrap();
        assert_eq!(enter(&link).unwrap(), path);
    }

    #[test]
    fn what_is_remembered_is_where_it_was_and_leads_nowhere_else() {
        let (_guard, partition, walker) = walker();
        fs::write(partition.join("inside/file"), "").unwrap();
        let find = |walker: &Walker| walker.resolve(Path::new("inside/file")).map(|found| found.stat.st_ino);
        let first = find(&walker).unwrap();
        fs::rename(partition.join("inside"), partition.join("elsewhere")).unwrap();
        fs::write(partition.join("../outside/file"), "").unwrap();
        symlink("../outside", partition.join("inside")).unwrap();
        assert_eq!(find(&walker).unwrap(), first);
        let anew = Walker::new(walker.boundary().clone());
        assert!(matches!(find(&anew), Err(ResolveError::Outside { .. })));
        // More directories than are remembered do no harm.
        for round in 0..2 {
            for number in 0..3 * MAX_REMEMBERED {
                let name = format!("many/{number}");
                fs::create_dir_all(partition.join(&name)).unwrap();
                fs::write(partition.join(&name).join("file"), "").unwrap();
                let found = anew.resolve(&Path::new(&name).join("file")).unwrap();
                assert_eq!(found.path, partition.join(&name).join("file"), "{round}");
            }
        }
    }

    #[test]
    fn links_count_from_where_the_walk_began() {
        let (_guard, partition, walker) = walker();
        // Half as many as may be to a directory, and as many again from there.
        for (place, target) in [("a", "vm"), ("vm/b", "entry")] {
            for number in 0..=MAX_LINKS / 2 {
                let end = target.rsplit('/').next().unwrap().to_owned();
                let to =
                    if number == 0 { end } else { format!("{}{}", &place[place.len() - 1..], number - 1) };
                symlink(to, partition.join(format!("{place}{number}"))).unwrap();
            }
        }
        let half = format!("a{}", MAX_LINKS / 2 - 1);
        let place = walker.enter(Path::new(&half)).unwrap();
        let more = |number: usize| walker.enter_from(&place, &Entry::new(format!("b{number}")));
        assert_eq!(more(MAX_LINKS / 2 - 1).unwrap().path(), partition.join("vm/entry"));
        assert!(matches!(more(MAX_LINKS / 2), Err(ResolveError::Loop(_))));
    }
}
