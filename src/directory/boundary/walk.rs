// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A walk along the names of a path, within a boundary.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, Stat};

use super::place::{Entered, Entry, Followed, Likely, Link, Place, Root, Step, UP, ancestors};
use super::{Boundary, FileId, ResolveError, Resolved, file_id};
use crate::directory::budget::{Budget, Cost};
use crate::directory::known::Notes;

/// The most links in one walk, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;
/// How many directories a [`Walker`] remembers: the few that many links lead through.
const MAX_REMEMBERED: usize = 32;

/// Walks within one boundary.
///
/// A walker remembers the directories at which walks begin, and some through which
/// links lead, as they were when it first came there. So many walks cost little more
/// than their last steps. One walker is for examining many files at about the same
/// time; later use of a file needs another walk.
#[derive(Debug)]
pub struct Walker {
    boundary: Boundary,
    /// Whether walks find out through which directories they lead.
    keeps_paths: bool,
    roots: RefCell<Vec<Rc<Root>>>,
    /// Directories by the directory that contains them and by name, the last used last.
    passed: RefCell<Vec<(FileId, Rc<Entered>)>>,
    /// Directories, each with all that contain it, the last used last.
    outer: RefCell<Vec<Rc<[FileId]>>>,
    budget: Budget,
    notes: Option<Rc<RefCell<Notes>>>,
}

impl Walker {
    /// A walker that remembers nothing yet.
    pub fn new(boundary: Boundary) -> Self {
        Self {
            boundary,
            keeps_paths: true,
            roots: RefCell::default(),
            passed: RefCell::default(),
            outer: RefCell::default(),
            budget: Budget::default(),
            notes: None,
        }
    }

    /// The same, but it notes everything that it looks at.
    #[must_use]
    pub fn noting(self, notes: Option<Rc<RefCell<Notes>>>) -> Self {
        Self { notes, ..self }
    }

    /// The notes, if it takes any.
    pub fn notes(&self) -> Option<&RefCell<Notes>> {
        self.notes.as_deref()
    }

    /// Notes that the entry of `place` leads to the file with this status, which may change.
    pub fn note_same(&self, place: &Place, entry: &Entry, stat: &Stat) {
        if let Some(notes) = &self.notes {
            notes.borrow_mut().same(place.node(), &entry.name, stat);
        }
    }

    fn note_root(&self, root: &Root) {
        let Some(notes) = &self.notes else { return };
        let mut notes = notes.borrow_mut();
        match root.node.get() {
            None => root.node.set(notes.root(&root.path, &root.stat, &root.outer, root.fd.as_fd())),
            node => notes.pass(node),
        }
    }

    fn note(&self, here: &Place, entered: &Entered) {
        let Some(notes) = &self.notes else { return };
        let mut notes = notes.borrow_mut();
        match entered.node.get() {
            None => {
                entered.node.set(notes.entry(here.node(), &entered.name, &entered.stat, entered.fd.as_fd()))
            }
            node => notes.pass(node),
        }
    }

    /// Notes the directory of a link: where a link leads changes only when the directory that it
    /// is in does.
    fn note_link(&self, here: &Place, link: &Stat) {
        let Some(notes) = &self.notes else { return };
        let mut notes = notes.borrow_mut();
        if link.st_dev == here.stat().st_dev { notes.pass(here.node()) } else { notes.doubt() }
    }

    /// Notes whose the links to `found` are, which no directory's time tells.
    pub fn note_owners(&self, found: &Resolved) {
        let Some(notes) = &self.notes else { return };
        for Followed { parent, name, stat } in &found.links {
            notes.borrow_mut().link(*parent, name, stat);
        }
    }

    /// A walker that leaves [`Resolved::through`] empty, for files that are only opened.
    pub fn only_to_open(boundary: Boundary) -> Self {
        Self { keeps_paths: false, ..Self::new(boundary) }
    }

    /// What its walks pay from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The boundary of its walks.
    pub fn boundary(&self) -> &Boundary {
        &self.boundary
    }

    /// Walks `relative`, a path beneath the user partition, and follows links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&self, relative: &Path) -> Result<Resolved, ResolveError> {
        let start = Place::start(self.root(&self.boundary.user_partition)?);
        self.walk(start, names_of(relative), Likely::Unknown, relative)?.into_resolved()
    }

    /// Goes on from `place` to its `entry`, and follows links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve_from(&self, place: &Place, entry: &Entry) -> Result<Resolved, ResolveError> {
        self.enter_from(place, entry)?.into_resolved()
    }

    /// Walks `relative`, a path beneath the user partition, most likely to a directory.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn enter(&self, relative: &Path) -> Result<Place, ResolveError> {
        let start = Place::start(self.root(&self.boundary.user_partition)?);
        self.walk(start, names_of(relative), Likely::Directory, relative)
    }

    /// Goes on from `place` to its `entry`, and follows links.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn enter_from(&self, place: &Place, Entry { name, likely }: &Entry) -> Result<Place, ResolveError> {
        self.walk(place.clone(), VecDeque::from([name.clone()]), *likely, Path::new(name))
    }

    /// The ids of a directory and of all that contain it.
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
            self.note_root(root);
            return Ok(Rc::clone(root));
        }
        let root = Rc::new(Root::open(path, self.keeps_paths)?);
        self.note_root(&root);
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
        // For the last name alone, before any link.
        let mut likely = Some(likely);
        while let Some(name) = ahead.pop_front() {
            self.budget.pay(Cost::Steps, 1)?;
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
            let (name, Link { target, stat }) = match step {
                (_, Step::Into(entered)) => {
                    self.note(&here, &entered);
                    here.entered.push(entered);
                    continue;
                }
                (name, Step::Link(link)) => {
                    self.note_link(&here, &link.stat);
                    // It may be in the text of a problem.
                    self.budget.pay(Cost::Bytes, link.target.as_os_str().len())?;
                    (name, link)
                }
            };
            let link = here.path().join(&name);
            here.links.push(Followed { parent: here.node(), name, stat });
            if here.links.len() > MAX_LINKS {
                return Err(ResolveError::Loop(link));
            }
            let mut names = if target.is_absolute() {
                let Some((place, rest)) = self.boundary.place_of(&target) else {
                    return Err(ResolveError::Outside { link, target });
                };
                let root = self.root(&place)?;
                here.through.extend(root.outer.iter().map(file_id));
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
        place.list(&Budget::default()).unwrap().into_iter().find(|entry| entry.name == "entry").unwrap()
    }

    #[test]
    fn the_type_in_a_listing_decides_nothing() {
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
        fs::remove_file(&path).unwrap();
        assert!(matches!(enter(&link), Err(ResolveError::Missing(_))));
        fs::create_dir(&path).unwrap();
        assert_eq!(enter(&link).unwrap(), path);
    }

    #[test]
    fn a_remembered_directory_leads_where_it_led_before() {
        let (_guard, partition, walker) = walker();
        fs::write(partition.join("inside/file"), "").unwrap();
        let find = |walker: &Walker| walker.resolve(Path::new("inside/file")).map(|found| found.stat.st_ino);
        let first = find(&walker).unwrap();
        fs::rename(partition.join("inside"), partition.join("elsewhere")).unwrap();
        fs::write(partition.join("../outside/file"), "").unwrap();
        symlink("../outside", partition.join("inside")).unwrap();
        assert_eq!(find(&walker).unwrap(), first);
        let later = Walker::new(walker.boundary().clone());
        assert!(matches!(find(&later), Err(ResolveError::Outside { .. })));
        // More directories than a walker remembers do no harm.
        for round in 0..2 {
            for number in 0..3 * MAX_REMEMBERED {
                let name = format!("many/{number}");
                fs::create_dir_all(partition.join(&name)).unwrap();
                fs::write(partition.join(&name).join("file"), "").unwrap();
                let found = later.resolve(&Path::new(&name).join("file")).unwrap();
                assert_eq!(found.path, partition.join(&name).join("file"), "{round}");
            }
        }
    }

    #[test]
    fn links_count_from_the_beginning_of_the_walk() {
        let (_guard, partition, walker) = walker();
        // Half of the most links lead to a directory, and the other half on from there.
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
