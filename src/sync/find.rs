// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *find*: reads all sources, and nothing of the state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Surroundings;
use super::known::Known;
use super::of_sources::OfSources;
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::printable::Printable;
use crate::base::problem::Problems;
use crate::base::shortened::shortened;
use crate::config::Config;
use crate::directory::definition::{Location, Reading};
use crate::state::catalog::{CatalogProblem, CatalogSource, Runnable};

/// The most problems of VM directories of one source that are kept, besides one for each VM.
const MAX_PROBLEMS: usize = 1_000;

/// What is in the sources.
pub(super) struct Found {
    /// The sources, in their order.
    pub sources: Vec<CatalogSource>,
    /// The VMs; those of one name are in the order of their sources.
    pub vms: Vms,
    /// The problems of sources, and of settings for VMs that do not exist.
    pub problems: Problems,
    /// The problems of directories whose names no VM can have.
    pub of_sources: OfSources,
    /// What is known of VM directories and packages.
    pub known: Known,
}

/// VMs by their names.
pub(super) type Vms = BTreeMap<VmName, Vec<FoundVm>>;

/// One VM of a source.
pub(super) struct FoundVm {
    pub source: SourceName,
    pub place: Place,
}

/// Where a VM was found.
pub(super) enum Place {
    /// In a source: a VM directory, which was read.
    Directory(Location, Reading),
    /// In the configuration: a package that was built elsewhere.
    Runner(PathBuf),
    /// In the last catalog alone, since its source cannot be read now.
    Catalog {
        /// Its directory, in printable form.
        directory: Printable,
        /// What it was when it could run.
        last: Option<Runnable>,
        /// Why the source cannot be read.
        problem: CatalogProblem,
    },
}

impl Place {
    /// The VM's directory or package, in printable form.
    pub fn shown(&self) -> Printable {
        match self {
            Self::Directory(location, _) => Printable::new(shortened(location.directory().as_ref())),
            Self::Runner(path) => Printable::new(path),
            Self::Catalog { directory, .. } => directory.clone(),
        }
    }
}

/// Finds the VMs of all sources and reads their directories.
pub(super) fn all(config: &Config, host: &Surroundings<'_>, known: Known) -> Found {
    let mut found = Found {
        sources: Vec::new(),
        vms: Vms::new(),
        problems: Problems::default(),
        of_sources: OfSources::default(),
        known,
    };
    for (VmId { source, name }, runner) in config.runners() {
        let place = Place::Runner(runner.to_owned());
        found.vms.entry(name).or_default().push(FoundVm { source, place });
    }
    let locations = found.list(config);
    let scan = found.known.scan();
    let count = locations.len();
    let mut left: BTreeMap<&SourceName, usize> = BTreeMap::new();
    for (number, (source, location)) in locations.into_iter().enumerate() {
        (host.progress)(number, count);
        let mut reading = found.known.reading(&location, &scan);
        let left = left.entry(source).or_insert(MAX_PROBLEMS);
        reading.problems.limit((*left).max(1), &location.directory());
        *left = left.saturating_sub(reading.problems.count());
        match VmName::new(location.file_name()) {
            Ok(name) => {
                let vm = FoundVm { source: source.clone(), place: Place::Directory(location, reading) };
                found.vms.entry(name).or_default().push(vm);
            }
            // One of the problems is its name.
            Err(_) => found.of_sources.add(source, reading.problems.into_sorted()),
        }
    }
    found.known.scanned(&scan, count);
    found.note_unknown(config);
    found
}

impl Found {
    /// Lists the VM directories of all sources.
    fn list<'a>(&mut self, config: &'a Config) -> Vec<(&'a SourceName, Location)> {
        let mut all = Vec::new();
        for source in &config.sources {
            let problem = match source.locations(&mut self.problems) {
                Ok(locations) => {
                    all.extend(locations.into_iter().map(|location| (&source.name, location)));
                    None
                }
                Err(unreadable) => {
                    let problem = CatalogProblem::from(&unreadable);
                    self.problems.push(unreadable);
                    Some(problem)
                }
            };
            self.sources.push(CatalogSource {
                name: source.name.clone(),
                kind: source.kind,
                directory: source.vm_directories(),
                partuuid: source.partuuid.clone(),
                problem,
            });
        }
        all
    }

    /// Notes settings for VMs that do not exist: their names may be mistyped.
    fn note_unknown(&mut self, config: &Config) {
        let unreadable: BTreeSet<_> = self
            .sources
            .iter()
            .filter(|source| source.problem.is_some())
            .map(|source| &source.name)
            .collect();
        for (key, id) in config.named().filter(|(_, id)| !unreadable.contains(&id.source)) {
            let vms = self.vms.get(&id.name).into_iter().flatten();
            if !vms.into_iter().any(|vm| vm.source == id.source) {
                self.problems.note(
                    &config.path,
                    format!("[vm.\"{key}\"] is for a VM that the source {} does not have", id.source),
                    "correct its name, or remove it",
                );
            }
        }
    }
}
