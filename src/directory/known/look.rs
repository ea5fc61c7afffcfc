// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A look at whether what was noted is still the same.

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::notes::{Group, Name, Node, Tree};
use super::seen::{Outer, Seen, is_directory};
use super::storage::Storage;
use crate::directory::boundary::ancestors;

/// How many directories are kept open.
const MAX_OPEN: usize = 32;
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Looks at the files of a tree, at each once.
///
/// Each step takes one name from the descriptor of the step before, so that a link that takes
/// the place of a directory leads nowhere. In directories of root's a name may be a path.
#[derive(Debug)]
pub struct Look {
    tree: Tree,
    /// The nodes that are directories of others.
    parents: Vec<bool>,
    held: RefCell<Vec<Option<bool>>>,
    /// The last used last.
    open: RefCell<Vec<(u32, Rc<OwnedFd>)>>,
    storage: RefCell<Storage>,
}

impl Look {
    /// A look that has not begun.
    pub fn new(tree: Tree) -> Self {
        let mut parents = vec![false; tree.nodes.len()];
        for parent in tree.nodes.iter().filter_map(|node| node.parent) {
            if let Some(is_parent) = parents.get_mut(parent as usize) {
                *is_parent = true;
            }
        }
        let held = RefCell::new(vec![None; tree.nodes.len()]);
        Self { tree, parents, held, open: RefCell::default(), storage: RefCell::default() }
    }

    /// What it looks at.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Whether everything that a reading depends on is the same.
    pub fn holds(&self, group: &Group) -> bool {
        group.nodes.iter().all(|node| self.node_holds(*node)) && self.are_same(&group.same)
    }

    /// Whether the whole tree is the same, and these names lead to the same files.
    pub fn all_holds(&self, names: &[Name]) -> bool {
        (0u32..).zip(&self.tree.nodes).all(|(number, _)| self.node_holds(number)) && self.are_same(names)
    }

    fn are_same(&self, names: &[Name]) -> bool {
        names.iter().all(|(parent, name, id)| {
            let directory = self.directory(*parent);
            let found = directory.and_then(|directory| stat_in(&directory, name));
            found.is_some_and(|found| Seen::new(&found).id() == *id)
        })
    }

    fn node_holds(&self, number: u32) -> bool {
        let index = number as usize;
        match self.held.borrow().get(index) {
            Some(Some(held)) => return *held,
            Some(None) => {}
            None => return false,
        }
        let holds = self.find(number).is_some();
        if let Some(held) = self.held.borrow_mut().get_mut(index) {
            *held = Some(holds);
        }
        holds
    }

    /// Finds a node that is as it was.
    fn find(&self, number: u32) -> Option<()> {
        let node = self.tree.nodes.get(number as usize)?;
        let Some(parent) = node.parent.filter(|_| self.parents.get(number as usize) == Some(&false)) else {
            return self.directory(number).map(drop);
        };
        let directory = self.directory(parent)?;
        let found = stat_in(&directory, &node.name)?;
        if Seen::new(&found) != node.seen {
            return None;
        }
        // A directory that is as it was is on its disk, and most files are on that of theirs.
        let device = node.seen.device();
        if self.tree.nodes.get(parent as usize).is_some_and(|parent| parent.seen.device() == device) {
            return Some(());
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*directory, node.name.as_str(), flags, Mode::empty()).ok()?;
        let is_it = rustix::fs::fstat(&file).is_ok_and(|found| Seen::new(&found) == node.seen);
        if is_it { self.is_on_its_disk(node, &file) } else { None }
    }

    /// Opens a directory that is as it was.
    fn directory(&self, number: u32) -> Option<Rc<OwnedFd>> {
        let known = self.open.borrow().iter().position(|(open, _)| *open == number);
        if let Some(at) = known {
            let mut open = self.open.borrow_mut();
            let found = open.remove(at);
            let fd = Rc::clone(&found.1);
            open.push(found);
            return Some(fd);
        }
        let node = self.tree.nodes.get(number as usize)?;
        let fd = match node.parent {
            // The administrator named it, and trusts the links in its path.
            None => rustix::fs::open(node.name.as_str(), DIRECTORY - OFlags::NOFOLLOW, Mode::empty()),
            Some(parent) if parent < number => {
                rustix::fs::openat(&*self.directory(parent)?, node.name.as_str(), DIRECTORY, Mode::empty())
            }
            Some(_) => return None,
        };
        let fd = Rc::new(fd.ok()?);
        let found = rustix::fs::fstat(&fd).ok()?;
        if Seen::new(&found) != node.seen || !is_directory(&found) {
            return None;
        }
        if node.parent.is_none() {
            let outer: Vec<_> = ancestors(fd.as_fd()).iter().skip(1).map(Outer::new).collect();
            if outer != node.outer {
                return None;
            }
        }
        self.is_on_its_disk(node, &fd)?;
        let mut open = self.open.borrow_mut();
        if open.len() >= MAX_OPEN {
            open.remove(0);
        }
        open.push((number, Rc::clone(&fd)));
        Some(fd)
    }

    fn is_on_its_disk(&self, node: &Node, fd: &OwnedFd) -> Option<()> {
        let device = node.seen.device();
        let disk = self.storage.borrow_mut().of(device, fd.as_fd())?;
        (self.tree.disks.get(&device) == Some(&disk)).then_some(())
    }
}

/// The status of a name in a directory, which is not followed.
fn stat_in(directory: &OwnedFd, name: &str) -> Option<rustix::fs::Stat> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).ok()
}
