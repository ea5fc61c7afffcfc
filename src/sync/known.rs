// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a round remembers for the next, so that this reads only what has changed.
//!
//! It decides nothing: without it, or where it is in doubt, a round reads everything. So it
//! is not synced to disk, and counts only for the boot and the program that wrote it. A round
//! that switches leaves it as it is: what has just changed could not be remembered yet.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Surroundings;
use super::as_it_was::{Ended, Record, within};
use crate::base::architecture::Architecture;
use crate::base::name::VmId;
use crate::base::problem::Problems;
use crate::config::Config;
use crate::directory::definition::{Location, Memory, Reading, Scan};
use crate::directory::known::{Look, Moment, Name, Notes, Seen, Storage, Tree, stamp};
use crate::package::identity::tells_content;
use crate::package::{Entry, Package};
use crate::plan::DefinitionPlace;
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;
use crate::system::durable;

/// The version of the file.
const VERSION: u32 = 3;
/// This program, however it was called.
const PROGRAM: &str = "/proc/self/exe";

/// The package of a VM, which was whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownPackage {
    /// The digest of its manifest.
    manifest: String,
    /// Its name in the state directory.
    name: String,
    /// What its files were.
    stamp: String,
    /// Which files it has, by number.
    layout: usize,
}

/// The packages of all VMs.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Packages {
    /// The paths of the directories and files of packages.
    layouts: Vec<Vec<String>>,
    of_vms: BTreeMap<VmId, KnownPackage>,
}

/// The first line of the file: what tells whether anything has changed.
#[derive(Debug, Serialize, Deserialize)]
struct Head<T> {
    version: u32,
    program: Seen,
    moment: Moment,
    tree: T,
    /// If all VMs can run and are remembered.
    round: Option<Round>,
}

/// A round that changed nothing.
#[derive(Debug, Serialize, Deserialize)]
struct Round {
    /// What must lead to the same files, and does not follow from the tree.
    names: Vec<Name>,
    record: Record,
}

/// The second line: what need not be read again when something has.
#[derive(Debug, Serialize, Deserialize)]
struct Rest<M, P> {
    memory: M,
    packages: P,
}

/// What is known in one round.
pub(super) struct Known {
    program: Option<Seen>,
    moment: Option<Moment>,
    /// What the last round looked at, the round, and the rest of the file.
    file: Option<(Look, Option<Round>, BufReader<File>)>,
    earlier: Option<(Memory, Look)>,
    notes: Option<Rc<RefCell<Notes>>>,
    /// What this round remembers of VM directories, if it is not the same as before.
    memory: Option<Memory>,
    architecture: Architecture,
    unchanged: Vec<Location>,
    earlier_packages: Packages,
    packages: Packages,
    /// The packages that are whole, and not known to be.
    whole: Vec<(VmId, PathBuf, KnownPackage, Vec<String>)>,
    layouts: BTreeMap<Vec<String>, usize>,
    storage: Storage,
    has_changed: bool,
    /// Whether all VM directories are remembered.
    is_complete: bool,
}

impl Known {
    /// What the last round has remembered, as far as it still counts.
    pub fn read(state: &StateDirectory, architecture: Architecture) -> Self {
        let program = rustix::fs::stat(PROGRAM).ok().map(|stat| Seen::new(&stat));
        let mut moment = Moment::now();
        let file = File::open(state.known()).ok().and_then(|file| {
            let (mut file, mut line) = (BufReader::new(file), String::new());
            file.read_line(&mut line).ok()?;
            let head: Head<Tree> = serde_json::from_str(&line).ok()?;
            let counts = head.version == VERSION
                && program == Some(head.program)
                && moment.as_ref().is_some_and(|now| now.follows(&head.moment));
            counts.then_some((head, file))
        });
        let notes = moment.clone().map(|moment| Rc::new(RefCell::new(Notes::new(moment))));
        let file = file.map(|(head, file)| {
            moment = moment.take().map(|now| now.with(&head.moment));
            (Look::new(head.tree), head.round, file)
        });
        Self {
            program,
            moment,
            file,
            earlier: None,
            notes,
            memory: None,
            architecture,
            unchanged: Vec::new(),
            earlier_packages: Packages::default(),
            packages: Packages::default(),
            whole: Vec::new(),
            layouts: BTreeMap::new(),
            storage: Storage::default(),
            has_changed: false,
            is_complete: false,
        }
    }

    /// What the last round that changed nothing reported, if everything is as it was then.
    pub fn as_it_was(&mut self, config: &Config, host: &Surroundings<'_>) -> Option<Problems> {
        let (look, round, _) = self.file.as_mut()?;
        let Round { names, record } = round.take()?;
        if look.all_holds(&names) { record.holds(config, host) } else { None }
    }

    /// A scan whose readings can be remembered.
    pub fn scan(&mut self) -> Scan {
        if let Some((look, _, mut file)) = self.file.take() {
            let mut text = String::new();
            let rest = file.read_to_string(&mut text).ok().and_then(|_| serde_json::from_str(&text).ok());
            let rest = rest.and_then(|Rest::<Memory, Packages> { memory, packages }| {
                Some((memory.ready(self.architecture)?, packages))
            });
            if let Some((memory, packages)) = rest {
                (self.earlier, self.earlier_packages) = (Some((memory, look)), packages);
            }
        }
        self.memory = Some(Memory::new(self.architecture));
        Scan::new(self.architecture).noting(self.notes.clone())
    }

    /// Reads a VM directory, unless nothing that it depends on has changed.
    pub fn reading(&mut self, location: &Location, scan: &Scan) -> Reading {
        let known = self.earlier.as_ref().and_then(|(memory, look)| memory.unchanged(location, look, scan));
        if let Some(known) = known {
            self.unchanged.push(location.clone());
            return known;
        }
        let mut reading = scan.read(location);
        if let (Some(remembered), Some(memory)) = (reading.remembered.take(), &mut self.memory) {
            memory.remember(location, *remembered);
        }
        reading
    }

    /// Ends the scan of so many VM directories.
    pub fn scanned(&mut self, scan: &Scan, count: usize) {
        self.remember_unchanged(scan);
        let memory = self.memory.as_ref().or(self.earlier.as_ref().map(|(memory, _)| memory));
        self.is_complete = memory.is_some_and(|memory| memory.count() == count);
    }

    fn remember_unchanged(&mut self, scan: &Scan) {
        let was = self.earlier.as_ref().map_or(0, |(memory, _)| memory.count());
        let Some(memory) = &mut self.memory else { return };
        if self.earlier.is_some() && memory.count() == 0 && was == self.unchanged.len() {
            self.memory = None;
            return;
        }
        self.has_changed = true;
        let Some(notes) = &self.notes else { return };
        let mut notes = notes.borrow_mut();
        if let Some((earlier, look)) = &self.earlier {
            for location in &self.unchanged {
                memory.keep(location, earlier, look, &mut notes);
            }
        }
        memory.finish(scan, self.earlier.as_ref().map(|(memory, look)| (memory, look)), &mut notes);
    }

    /// Whether this user could open the files of an unchanged VM directory.
    pub fn was_readable(&self, definition: &DefinitionPlace, uid: u32) -> bool {
        let memory = self.memory.as_ref().or(self.earlier.as_ref().map(|(memory, _)| memory));
        memory.is_some_and(|it| it.is_readable_by(&definition.boundary, &definition.directory, uid))
    }

    /// Remembers whether this user can open the files of a VM directory.
    pub fn readable(&mut self, definition: &DefinitionPlace, uid: Option<u32>) {
        let memory = self.memory.as_mut().or(self.earlier.as_mut().map(|(memory, _)| memory));
        let is_new =
            memory.is_some_and(|it| it.readable_by(&definition.boundary, &definition.directory, uid));
        self.has_changed |= is_new;
    }

    /// The name of the VM's package, if it had this manifest.
    pub fn package_name(&self, vm: &VmId, manifest: &str) -> Option<String> {
        let known = self.earlier_packages.of_vms.get(vm)?;
        let is_its = tells_content(known.name.as_ref(), &vm.name) && known.manifest == digest(manifest);
        is_its.then(|| known.name.clone())
    }

    /// Whether the VM's package at `path` is known to be whole.
    pub fn is_whole(&mut self, vm: &VmId, path: &Path) -> bool {
        let Some(known) = self.earlier_packages.of_vms.get(vm) else { return false };
        let layout = self.earlier_packages.layouts.get(known.layout);
        let (Some(layout), Some(name)) = (layout, path.file_name()) else { return false };
        let files = layout.iter().map(String::as_str);
        let is_whole = name == known.name.as_str()
            && stamp(&mut self.storage, path, files, None).is_some_and(|stamp| stamp == known.stamp);
        if is_whole {
            let (known, layout) = (known.clone(), layout.clone());
            self.add(vm, known, layout);
        }
        is_whole
    }

    /// Notes that the VM's package at `path` is whole.
    pub fn whole(&mut self, vm: &VmId, path: &Path, package: &Package) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        let Some(Entry::File(manifest)) = package.0.get(Path::new(crate::package::MANIFEST)) else { return };
        // A link changes only when its directory does.
        let files = package.0.iter().filter_map(|(path, entry)| match entry {
            Entry::Link(_) => path.parent(),
            Entry::File(_) | Entry::Executable(_) => Some(path.as_path()),
        });
        let mut layout: Vec<_> = files.filter_map(|path| path.to_str().map(str::to_owned)).collect();
        layout.sort();
        layout.dedup();
        let (manifest, name) = (digest(manifest), name.to_owned());
        let known = KnownPackage { manifest, name, stamp: String::new(), layout: 0 };
        self.whole.push((vm.clone(), path.to_owned(), known, layout));
    }

    fn add(&mut self, vm: &VmId, known: KnownPackage, layout: Vec<String>) {
        let next = self.layouts.len();
        let layout = *self.layouts.entry(layout).or_insert(next);
        self.packages.of_vms.insert(vm.clone(), KnownPackage { layout, ..known });
    }

    /// Remembers it for the next round, in one that has changed nothing. If that fails, the next round reads everything.
    pub fn write(mut self, config: &Config, host: &Surroundings<'_>, catalog: &Catalog, problems: &Problems) {
        self.has_changed |= self.packages.of_vms.len() != self.earlier_packages.of_vms.len();
        let (Some(program), Some(moment)) = (self.program, self.moment.take()) else { return };
        for (vm, path, known, layout) in std::mem::take(&mut self.whole) {
            let files = layout.iter().map(String::as_str);
            if let Some(stamp) = stamp(&mut self.storage, &path, files, Some(&moment)) {
                self.has_changed = true;
                self.add(&vm, KnownPackage { stamp, ..known }, layout);
            }
        }
        let mut layouts: Vec<_> = self.layouts.into_iter().collect();
        layouts.sort_by_key(|(_, number)| *number);
        self.packages.layouts = layouts.into_iter().map(|(layout, _)| layout).collect();
        let tree = self.notes.map(|notes| notes.borrow_mut().take_tree()).unwrap_or_default();
        let (memory, tree) = match (&self.memory, &self.earlier) {
            (Some(memory), _) => (memory, &tree),
            (None, Some((memory, look))) => (memory, look.tree()),
            (None, None) => return,
        };
        let packages = &self.packages;
        let looked_at = packages.of_vms.values().filter_map(|KnownPackage { name, layout, .. }| {
            Some((name.as_str(), within(name, packages.layouts.get(*layout)?)))
        });
        let names = if self.is_complete { memory.names() } else { None };
        let round = names.and_then(|names| {
            let ended = Ended { config, host, catalog, problems, packages: looked_at.collect() };
            Some(Round { names: tree.beyond(names), record: Record::of(&ended, &moment)? })
        });
        if !(self.has_changed || round.is_some()) || !Moment::now().is_some_and(|now| now.follows(&moment)) {
            return;
        }
        if memory.count() == 0 && packages.of_vms.is_empty() && self.earlier.is_none() {
            return;
        }
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec(&Head { version: VERSION, program, moment, tree, round })?;
            text.push(b'\n');
            serde_json::to_writer(&mut text, &Rest { memory, packages })?;
            let text = String::from_utf8(text).map_err(io::Error::other)?;
            durable::replace_file_in_memory(&host.state.known(), &text, 0o600)
        };
        let _ = write();
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
