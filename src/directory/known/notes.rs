// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Notes of what a reading depends on: every file and directory that it looked at.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::Stat;
use serde::{Deserialize, Serialize, Serializer};

use super::moment::Moment;
use super::seen::{Outer, Seen};
use super::storage::Storage;
use crate::directory::boundary::FileId;

/// The most files that a definition depends on, if it is remembered: the author of a source
/// decides no more than that of what this takes in memory.
const MAX_OF_ONE: usize = 64;
/// The same for what several definitions depend on, and for the names that may change.
const MAX_OF_ALL: usize = 16_384;
/// The most files in all.
const MAX_NODES: usize = 200_000;
/// The longest name, in bytes; those of packages are paths.
const MAX_NAME: usize = 192;

/// A file in a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The directory that it is in; none if its path is its name.
    pub parent: Option<u32>,
    pub name: String,
    pub seen: Seen,
    /// The directories that lead to one that has a path.
    pub outer: Vec<Outer>,
}

/// Files by the directories that they are in, each after that, and the disks that they are on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written<String>")]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) disks: BTreeMap<u64, u64>,
}

/// A [`Tree`] as it is written: lists of numbers and names are read in a third of the time that
/// a list of nodes takes, and this is read each time.
#[derive(Serialize, Deserialize)]
struct Written<S> {
    parents: Vec<Option<u32>>,
    names: Vec<S>,
    /// What each was, number by number.
    seen: Vec<u64>,
    outer: BTreeMap<u32, Vec<Outer>>,
    disks: BTreeMap<u64, u64>,
}

impl TryFrom<Written<String>> for Tree {
    type Error = &'static str;

    fn try_from(written: Written<String>) -> Result<Self, Self::Error> {
        let Written { parents, names, seen, mut outer, disks } = written;
        let (seen, more) = seen.as_chunks();
        if [names.len(), seen.len()] != [parents.len(); 2] || !more.is_empty() {
            return Err("a list is too short");
        }
        let all = (0u32..).zip(parents).zip(names).zip(seen);
        let nodes = all.map(|(((number, parent), name), seen)| {
            let outer = outer.remove(&number).unwrap_or_default();
            Node { parent, name, seen: Seen::from_numbers(*seen), outer }
        });
        Ok(Self { nodes: nodes.collect(), disks })
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { nodes, disks } = self;
        let outer = (0u32..).zip(nodes).filter(|(_, node)| !node.outer.is_empty());
        let written = Written {
            parents: nodes.iter().map(|node| node.parent).collect(),
            names: nodes.iter().map(|node| node.name.as_str()).collect(),
            seen: nodes.iter().flat_map(|node| node.seen.numbers()).collect(),
            outer: outer.map(|(number, node)| (number, node.outer.clone())).collect(),
            disks: disks.clone(),
        };
        written.serialize(serializer)
    }
}

impl Tree {
    /// Those of the `names`, as [`Group::same`] has them, that do not follow from its nodes.
    pub fn beyond(&self, names: Vec<Name>) -> Vec<Name> {
        let known: HashMap<_, _> =
            self.nodes.iter().map(|node| ((node.parent, node.name.as_str()), node.seen.id())).collect();
        let follows = |(parent, name, id): &Name| known.get(&(Some(*parent), name.as_str())) == Some(id);
        names.into_iter().filter(|name| !follows(name)).collect()
    }
}

/// A name in a directory, which is a node, and the file that it leads to.
pub type Name = (u32, String, FileId);

/// What several readings depend on together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Files that must be unchanged.
    pub nodes: Vec<u32>,
    /// Names in directories that must lead to the same file, which may have changed.
    pub same: Vec<Name>,
}

/// The notes of a scan, taken from a moment on.
#[derive(Debug)]
pub struct Notes {
    moment: Moment,
    storage: Storage,
    tree: Tree,
    index: HashMap<(Option<u32>, String), u32>,
    current: Group,
    most: usize,
    in_doubt: bool,
}

impl Notes {
    /// No notes yet.
    pub fn new(moment: Moment) -> Self {
        Self {
            moment,
            storage: Storage::default(),
            tree: Tree::default(),
            index: HashMap::new(),
            current: Group::default(),
            most: MAX_OF_ONE,
            in_doubt: false,
        }
    }

    /// From now on, what is noted is for another reading.
    pub fn begin(&mut self) {
        self.current = Group::default();
        self.in_doubt = false;
    }

    /// What the reading that began last depends on; nothing if that is in doubt.
    pub fn finish(&mut self) -> Option<Group> {
        let mut group = std::mem::take(&mut self.current);
        group.nodes.sort_unstable();
        group.nodes.dedup();
        (!std::mem::take(&mut self.in_doubt)).then_some(group)
    }

    /// What `look` depends on, apart from the reading that began last.
    pub fn apart<T>(notes: &std::cell::RefCell<Self>, look: impl FnOnce() -> T) -> (T, Option<Group>) {
        let saved = {
            let mut notes = notes.borrow_mut();
            notes.most = MAX_OF_ALL;
            (std::mem::take(&mut notes.current), std::mem::take(&mut notes.in_doubt))
        };
        let found = look();
        let mut notes = notes.borrow_mut();
        notes.most = MAX_OF_ONE;
        let group = notes.finish();
        (notes.current, notes.in_doubt) = saved;
        (found, group)
    }

    /// The reading depends on something that cannot be noted.
    pub fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// The reading depends on a file that was noted before, if it was.
    pub fn pass(&mut self, node: Option<u32>) {
        match node {
            Some(node) if self.current.nodes.last() == Some(&node) => {}
            Some(node) if self.current.nodes.len() < self.most => self.current.nodes.push(node),
            _ => self.doubt(),
        }
    }

    /// Notes a directory by its path, with the status of all that contain it.
    pub fn root(&mut self, path: &Path, stat: &Stat, outer: &[Stat], fd: BorrowedFd<'_>) -> Option<u32> {
        let outer = outer.iter().map(Outer::new).collect();
        self.add(None, path.as_os_str(), stat, outer, fd)
    }

    /// Notes a file in a directory that was noted before. The device of the file `fd` is the
    /// device of this one.
    pub fn entry(
        &mut self,
        parent: Option<u32>,
        name: &OsStr,
        stat: &Stat,
        fd: BorrowedFd<'_>,
    ) -> Option<u32> {
        match parent {
            Some(parent) => self.add(Some(parent), name, stat, Vec::new(), fd),
            None => {
                self.doubt();
                None
            }
        }
    }

    /// Notes a link in a directory that was noted before, on the same device.
    pub fn link(&mut self, parent: Option<u32>, name: &OsStr, stat: &Stat) {
        let node = parent.and_then(|_| self.insert_seen(parent, name, stat, Vec::new()));
        self.pass(node);
    }

    /// Notes that a name in a directory leads to the file with this status, which may change.
    pub fn same(&mut self, parent: Option<u32>, name: &OsStr, stat: &Stat) {
        match (parent, name.to_str()) {
            (Some(parent), Some(name)) if self.current.same.len() < MAX_OF_ALL => {
                self.current.same.push((parent, name.to_owned(), Seen::new(stat).id()));
            }
            _ => self.doubt(),
        }
    }

    fn add(
        &mut self,
        parent: Option<u32>,
        name: &OsStr,
        stat: &Stat,
        outer: Vec<Outer>,
        fd: BorrowedFd<'_>,
    ) -> Option<u32> {
        let device = stat.st_dev;
        let node = self.storage.of(device, fd).and_then(|disk| {
            self.tree.disks.insert(device, disk);
            self.insert_seen(parent, name, stat, outer)
        });
        self.pass(node);
        node
    }

    fn insert_seen(
        &mut self,
        parent: Option<u32>,
        name: &OsStr,
        stat: &Stat,
        outer: Vec<Outer>,
    ) -> Option<u32> {
        let (name, seen) = (name.to_str()?.to_owned(), Seen::new(stat));
        let fits = self.moment.is_settled(seen.changed())
            && (parent.is_none() || name.len() <= MAX_NAME)
            && self.current.nodes.len() < self.most;
        if fits { self.insert(Node { parent, name, seen, outer }) } else { None }
    }

    /// A node that is noted once; nothing if it was noted otherwise before.
    fn insert(&mut self, node: Node) -> Option<u32> {
        let number = u32::try_from(self.tree.nodes.len()).ok()?;
        let key = (node.parent, node.name.clone());
        if let Some(known) = self.index.get(&key) {
            let is_same = self.tree.nodes.get(*known as usize).is_some_and(|other| *other == node);
            return is_same.then_some(*known);
        }
        if self.tree.nodes.len() >= MAX_NODES {
            return None;
        }
        self.index.insert(key, number);
        self.tree.nodes.push(node);
        Some(number)
    }

    /// Takes over what an earlier reading depended on and still does; nothing if another has
    /// seen something else since.
    pub fn adopt(&mut self, tree: &Tree, group: &Group) -> Option<Group> {
        let mut adopted = Group::default();
        for node in &group.nodes {
            adopted.nodes.push(self.adopt_node(tree, *node)?);
        }
        for (parent, name, id) in &group.same {
            adopted.same.push((self.adopt_node(tree, *parent)?, name.clone(), *id));
        }
        adopted.nodes.sort_unstable();
        Some(adopted)
    }

    fn adopt_node(&mut self, tree: &Tree, number: u32) -> Option<u32> {
        // From the root to the node: a path is not so long that this takes time.
        let mut path = vec![tree.nodes.get(number as usize)?];
        while let Some(parent) = path.last().and_then(|node| node.parent) {
            path.push(tree.nodes.get(parent as usize)?);
        }
        let mut parent = None;
        for node in path.into_iter().rev() {
            let device = node.seen.device();
            self.tree.disks.insert(device, *tree.disks.get(&device)?);
            parent = Some(self.insert(Node { parent, ..node.clone() })?);
        }
        parent
    }

    /// Everything that was noted.
    pub fn take_tree(&mut self) -> Tree {
        std::mem::take(&mut self.tree)
    }
}
