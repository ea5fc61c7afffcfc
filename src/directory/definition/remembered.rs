// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Definitions of an earlier scan whose VM directories have not changed since.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Definition, Image, Location, Reading, Scan, Share};
use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::problem::Problems;
use crate::directory::boundary::Boundary;
use crate::directory::known::{Group, Look, Name, Notes};
use crate::directory::stamp::FileStamp;

/// A definition without problems, and what it depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    depends: Group,
    paid: [u32; 3],
    kernel: String,
    images: Vec<Image>,
    stamps: Vec<FileStamp>,
    shares: Vec<Share>,
    network_providers: Vec<VmName>,
    wayland: bool,
    /// The user who could open its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    readable_by: Option<u32>,
}

impl Remembered {
    pub(super) fn new(definition: &Definition, depends: Group, paid: [u32; 3]) -> Self {
        let Definition { kernel, images, stamps, shares, network_providers, wayland, .. } =
            definition.clone();
        let readable_by = None;
        Self { depends, paid, kernel, images, stamps, shares, network_providers, wayland, readable_by }
    }

    fn definition(&self, location: &Location) -> Option<Definition> {
        let Self { kernel, images, stamps, shares, network_providers, wayland, .. } = self.clone();
        let name = VmName::new(location.file_name()).ok()?;
        let location = location.clone();
        Some(Definition { name, location, kernel, images, stamps, shares, network_providers, wayland })
    }
}

/// What a scan remembers of a user partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OfPartition {
    boundary: Boundary,
    /// What the shared directories of all its VMs depend on.
    shares: Option<Group>,
    /// By the paths of their directories beneath the partition.
    vms: BTreeMap<String, Remembered>,
}

/// What a scan remembers for a later one on the same architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    architecture: Architecture,
    partitions: Vec<OfPartition>,
    /// Whether the shared directories' group of each partition holds.
    #[serde(skip)]
    shares_hold: Vec<OnceCell<bool>>,
}

impl Memory {
    /// Nothing is remembered.
    pub fn new(architecture: Architecture) -> Self {
        Self { architecture, partitions: Vec::new(), shares_hold: Vec::new() }
    }

    /// Makes it ready for [`unchanged`](Self::unchanged); nothing if it is of another architecture.
    pub fn ready(mut self, architecture: Architecture) -> Option<Self> {
        self.shares_hold = self.partitions.iter().map(|_| OnceCell::new()).collect();
        (self.architecture == architecture).then_some(self)
    }

    /// What the scan would read at `location`, if nothing that it depends on has changed. The
    /// source pays the same for it.
    pub fn unchanged(&self, location: &Location, look: &Look, scan: &Scan) -> Option<Reading> {
        let all = self.partitions.iter().zip(&self.shares_hold);
        let (partition, shares_hold) = all.into_iter().find(|(it, _)| it.boundary == location.boundary)?;
        let remembered = partition.vms.get(location.relative.to_str()?)?;
        let may_share = || {
            remembered.shares.is_empty()
                || *shares_hold.get_or_init(|| partition.shares.as_ref().is_some_and(|it| look.holds(it)))
        };
        if !look.holds(&remembered.depends) || !may_share() {
            return None;
        }
        let definition = remembered.definition(location)?;
        scan.partition(location).walker.budget().pay_again(remembered.paid).ok()?;
        Some(Reading {
            wayland: definition.wayland,
            definition: Some(definition),
            problems: Problems::default(),
            remembered: None,
            unchanged: true,
        })
    }

    /// Remembers a VM directory that was read.
    pub fn remember(&mut self, location: &Location, remembered: Remembered) {
        let Some(path) = location.relative.to_str() else { return };
        self.partition(&location.boundary).vms.insert(path.to_owned(), remembered);
    }

    /// Remembers a VM directory of an earlier scan that has not changed.
    pub fn keep(&mut self, location: &Location, earlier: &Self, look: &Look, notes: &mut Notes) {
        let partition = earlier.partitions.iter().find(|it| it.boundary == location.boundary);
        let path = location.relative.to_str();
        let remembered = partition.zip(path).and_then(|(partition, path)| partition.vms.get(path));
        let Some(remembered) = remembered else { return };
        if let Some(depends) = notes.adopt(look.tree(), &remembered.depends) {
            self.remember(location, Remembered { depends, ..remembered.clone() });
        }
    }

    /// Remembers what shared directories depend on: as the scan has found it, or else as it was
    /// and is.
    pub fn finish(&mut self, scan: &Scan, earlier: Option<(&Self, &Look)>, notes: &mut Notes) {
        for partition in &mut self.partitions {
            let scanned = scan.partitions.borrow();
            let scanned = scanned.iter().find(|it| *it.walker.boundary() == partition.boundary);
            let was = earlier.and_then(|(earlier, look)| {
                let mut all = earlier.partitions.iter().zip(&earlier.shares_hold);
                let (was, holds) = all.find(|(it, _)| it.boundary == partition.boundary)?;
                let shares = was.shares.as_ref().filter(|_| holds.get() == Some(&true))?;
                Some(notes.adopt(look.tree(), shares))
            });
            let is =
                scanned.filter(|it| it.exposure.borrow().is_some()).map(|it| it.group.borrow_mut().take());
            partition.shares = match (is, was) {
                // Some definitions were read with the one, some with the other.
                (Some(is), Some(was)) => is.filter(|is| was.as_ref() == Some(is)),
                (is, was) => is.or(was).flatten(),
            };
        }
    }

    /// The names in directories that must lead to the same files; nothing if it is in doubt
    /// which these are.
    pub fn names(&self) -> Option<Vec<Name>> {
        let mut names = Vec::new();
        for OfPartition { shares, vms, .. } in &self.partitions {
            match shares {
                Some(shares) => names.extend(shares.same.iter().cloned()),
                None if vms.values().all(|vm| vm.shares.is_empty()) => {}
                None => return None,
            }
            names.extend(vms.values().flat_map(|vm| vm.depends.same.iter().cloned()));
        }
        Some(names)
    }

    /// How many VM directories are remembered.
    pub fn count(&self) -> usize {
        self.partitions.iter().map(|partition| partition.vms.len()).sum()
    }

    /// Whether this user could open the files of the VM directory at `path` beneath the partition.
    pub fn is_readable_by(&self, boundary: &Boundary, path: &Path, uid: u32) -> bool {
        let partition = self.partitions.iter().find(|it| it.boundary == *boundary);
        let vm = partition.zip(path.to_str()).and_then(|(partition, path)| partition.vms.get(path));
        vm.is_some_and(|vm| vm.readable_by == Some(uid))
    }

    /// Remembers whether this user can open the files of a VM directory that was read in this scan
    /// or has not changed; returns whether that is new.
    pub fn readable_by(&mut self, boundary: &Boundary, path: &Path, uid: Option<u32>) -> bool {
        let partition = self.partitions.iter_mut().find(|it| it.boundary == *boundary);
        let vm = partition.zip(path.to_str()).and_then(|(partition, path)| partition.vms.get_mut(path));
        vm.is_some_and(|vm| std::mem::replace(&mut vm.readable_by, uid) != uid)
    }

    fn partition(&mut self, boundary: &Boundary) -> &mut OfPartition {
        let known = self.partitions.iter().position(|it| it.boundary == *boundary);
        let at = known.unwrap_or_else(|| {
            let new = OfPartition { boundary: boundary.clone(), shares: None, vms: BTreeMap::new() };
            self.partitions.push(new);
            self.partitions.len() - 1
        });
        // It was found, or added.
        #[allow(clippy::indexing_slicing)]
        &mut self.partitions[at]
    }
}

#[cfg(test)]
mod tests;
