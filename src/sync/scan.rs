// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! All VMs of all sources, put together into one catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::apart::Apart;
use super::leasing::Leasing;
use super::prepare::{self, Prepared};
use super::{Built, Host, catalog_of_no_generation};
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::config::{Config, Settings};
use crate::directory::definition::{self, Location};
use crate::link::graph;
use crate::plan::pci::{self, PciAddress};
use crate::state::catalog::{Catalog, CatalogProblem, CatalogSource, CatalogVm, VmState};
use crate::state::leases::Leases;

/// What was found.
pub(super) struct Scanned {
    /// All VMs; of no generation yet.
    pub catalog: Catalog,
    /// The packages of those that can run.
    pub built: Vec<Built>,
    /// The leases, with those that were given now.
    pub leases: Leases,
    /// What is wrong with sources, VM directories and settings.
    pub problems: Problems,
}

/// Where a VM was found.
enum Place {
    /// In a source.
    Here(Location),
    /// In the configuration, as a package that was built elsewhere.
    Runner(PathBuf),
    /// In a source that cannot be read now, and why: as the catalog had it.
    Away(CatalogVm, CatalogProblem),
}

impl Place {
    /// Where it is said who provides its networks.
    fn providers(&self) -> PathBuf {
        match self {
            Self::Here(location) => location.directory().join("providers/net"),
            Self::Runner(path) => path.clone(),
            Self::Away(..) => PathBuf::new(),
        }
    }

    /// The directory to show.
    fn shown(&self) -> String {
        match self {
            Self::Here(location) => printable(location.directory()),
            Self::Runner(path) => printable(path),
            Self::Away(vm, _) => vm.directory.clone(),
        }
    }
}

/// The places of all VMs, those of one name in the order of their sources.
type Places = BTreeMap<VmName, Vec<(SourceName, Place)>>;

/// Reads all VMs of all sources and plans those that can run.
pub(super) fn all(config: &Config, host: &mut Host<'_>, leases: Leases, before: Option<&Catalog>) -> Scanned {
    let mut leasing = Leasing::new(config, leases, before, &host.taken_uids, &host.running_uids);
    let mut problems = Problems::default();
    let mut catalog = catalog_of_no_generation();
    let definitions = definition::Scan::new(host.architecture);
    let places = places(config, &definitions, before, &mut catalog.sources, &mut problems);
    let apart = Apart::new(config, host.state);
    let total = places.values().map(Vec::len).sum();
    let mut providers_at = BTreeMap::new();
    let mut built = Vec::new();
    // The links of packages that were built elsewhere cannot be moved, so that
    // their VMs come before those that get what is left.
    let (first, rest): (Vec<_>, Vec<_>) =
        places.into_iter().partition(|(_, places)| matches!(places.first(), Some((_, Place::Runner(_)))));
    for (name, places) in first.into_iter().chain(rest) {
        let mut by: Option<SourceName> = None;
        for (source, place) in places {
            (host.progress)(catalog.vms.len(), total);
            let id = VmId { source: source.clone(), name: name.clone() };
            let directory = place.shown();
            if by.is_none() {
                providers_at.insert(name.clone(), place.providers());
            }
            let state = match &by {
                Some(by) => VmState::Shadowed { by: by.clone() },
                None => one(
                    &id,
                    place,
                    &definitions,
                    config,
                    host,
                    &mut leasing,
                    &apart,
                    &mut built,
                    &mut problems,
                ),
            };
            by.get_or_insert_with(|| source.clone());
            catalog.vms.push(CatalogVm { name: name.clone(), source, directory, state });
        }
    }
    // Those of one name stay in the order of their sources.
    catalog.vms.sort_by(|a, b| a.name.cmp(&b.name));
    built.sort_by(|a, b| a.name.cmp(&b.name));
    for vm in &mut catalog.vms {
        let id = vm.id();
        // What it was is over where another has its user id now: no two may have one.
        if let VmState::Unavailable { last, .. } = &mut vm.state
            && last.as_ref().is_some_and(|last| leasing.is_anothers(&id, last.uid))
        {
            *last = None;
        }
    }
    keep_devices_apart(&mut catalog.vms, &mut built, &mut problems);
    block(&mut catalog.vms, &mut built, &providers_at, &mut problems);
    note_unknown(config, &catalog, &mut problems);
    catalog.leases = leasing.of_gone(&catalog);
    Scanned { catalog, built, leases: leasing.into_leases(), problems }
}

/// Finds all VMs.
///
/// Those of a source that went away stay, so that no other VM takes a name of
/// theirs meanwhile.
fn places(
    config: &Config,
    definitions: &definition::Scan,
    before: Option<&Catalog>,
    sources: &mut Vec<CatalogSource>,
    problems: &mut Problems,
) -> Places {
    let mut found = Places::new();
    for (id, runner) in config.runners() {
        found.entry(id.name).or_default().push((id.source, Place::Runner(runner.to_owned())));
    }
    for source in &config.sources {
        let mut problem = None;
        match source.locations(problems) {
            Ok(locations) => {
                for location in locations {
                    match VmName::new(location.file_name()) {
                        Ok(name) => {
                            let place = (source.name.clone(), Place::Here(location));
                            found.entry(name).or_default().push(place);
                        }
                        // Said by the reading of the definition.
                        Err(_) => {
                            problems.extend(definitions.read(&location).problems.into_sorted());
                        }
                    }
                }
            }
            Err(unreadable) => {
                let away = CatalogProblem::from(&unreadable);
                problems.push(unreadable);
                let vms = before.into_iter().flat_map(|catalog| &catalog.vms);
                for vm in vms.filter(|vm| vm.source == source.name) {
                    let place = (source.name.clone(), Place::Away(vm.clone(), away.clone()));
                    found.entry(vm.name.clone()).or_default().push(place);
                }
                problem = Some(away);
            }
        }
        sources.push(CatalogSource {
            name: source.name.clone(),
            kind: source.kind,
            directory: source.vm_directories(),
            partuuid: source.partuuid.clone(),
            problem,
        });
    }
    found
}

/// What can be done with one VM that nobody shadows.
#[allow(clippy::too_many_arguments)]
fn one(
    id: &VmId,
    place: Place,
    definitions: &definition::Scan,
    config: &Config,
    host: &mut Host<'_>,
    leasing: &mut Leasing<'_>,
    apart: &Apart,
    built: &mut Vec<Built>,
    problems: &mut Problems,
) -> VmState {
    let settings = settings(config, id);
    let (prepared, wrong) = match place {
        Place::Away(vm, problem) => {
            let last = match vm.state {
                VmState::Runnable(last) => Some(last),
                VmState::Unavailable { last, .. } => last,
                _ => None,
            };
            return VmState::Unavailable { problems: vec![problem], last };
        }
        Place::Here(location) => {
            let reading = definitions.read(&location);
            prepare::from_directory(id, reading, &location, &settings, host, leasing, apart)
        }
        Place::Runner(path) => prepare::from_runner(id, &path, &settings, host, leasing, apart),
    };
    let wrong = wrong.into_sorted();
    let state = match prepared {
        Some(Prepared { runnable, built: new }) => {
            built.push(new);
            VmState::Runnable(runnable)
        }
        None => VmState::Broken { problems: CatalogProblem::errors(&wrong) },
    };
    problems.extend(wrong);
    state
}

/// The settings of a VM; it starts with the host only if VMs of its source may.
fn settings(config: &Config, id: &VmId) -> Settings {
    let mut settings = config.settings(id);
    let source = config.sources.iter().find(|source| source.name == id.source);
    if source.is_some_and(|source| !source.may_autostart()) {
        settings.autostart = Some(false);
    }
    settings
}

/// Takes out who lists a device that another VM has: packages that were built
/// elsewhere bring devices that the configuration does not name.
fn keep_devices_apart(vms: &mut [CatalogVm], built: &mut Vec<Built>, problems: &mut Problems) {
    let mut holders: BTreeMap<PciAddress, VmId> = BTreeMap::new();
    for vm in vms {
        let id = vm.id();
        let VmState::Runnable(runnable) = &vm.state else { continue };
        let taken = |device: &&PciAddress| holders.contains_key(*device);
        let Some(device) = runnable.devices.iter().find(taken).copied() else {
            holders.extend(runnable.devices.iter().map(|device| (*device, id.clone())));
            continue;
        };
        let problem = Problem::error(
            Path::new(pci::SYS).join("bus/pci/devices").join(device.to_string()),
            holders
                .get(&device)
                .map_or_else(String::new, |other| format!("is both for {other} and for {id}")),
            "give it to one of them",
        );
        vm.state = VmState::Broken { problems: vec![CatalogProblem::from(&problem)] };
        problems.push(problem);
        built.retain(|built| built.name != id.name);
    }
}

/// Takes out what cannot run because of the VMs that provide its networks.
fn block(
    vms: &mut [CatalogVm],
    built: &mut Vec<Built>,
    providers_at: &BTreeMap<VmName, PathBuf>,
    problems: &mut Problems,
) {
    let mut broken = BTreeSet::new();
    let mut links: BTreeMap<VmName, Vec<VmName>> = BTreeMap::new();
    for vm in &*vms {
        match &vm.state {
            VmState::Runnable(runnable) => {
                let providers = runnable.links.iter().map(|link| link.provider.clone());
                links.insert(vm.name.clone(), providers.collect());
            }
            VmState::Broken { .. } | VmState::Unavailable { .. } => {
                broken.insert(vm.name.clone());
            }
            VmState::Blocked { .. } | VmState::Shadowed { .. } => {}
        }
    }
    let blocked = graph::blocked(&links, &broken);
    for vm in vms.iter_mut().filter(|vm| matches!(vm.state, VmState::Runnable(_))) {
        let Some(reasons) = blocked.get(&vm.name) else { continue };
        let remedy = "provide that VM, or remove its entry from providers/net";
        let path = providers_at.get(&vm.name).cloned().unwrap_or_default();
        let found: Vec<_> =
            reasons.iter().map(|reason| Problem::error(&path, reason.to_string(), remedy)).collect();
        let providers = links.remove(&vm.name).unwrap_or_default();
        vm.state = VmState::Blocked { problems: CatalogProblem::errors(&found), providers };
        problems.extend(found);
    }
    built.retain(|built| !blocked.contains_key(&built.name));
}

/// Notes settings for VMs that are not there, whose names may be mistyped.
fn note_unknown(config: &Config, catalog: &Catalog, problems: &mut Problems) {
    let there: BTreeSet<_> = catalog.vms.iter().map(CatalogVm::id).collect();
    let away: BTreeSet<_> =
        catalog.sources.iter().filter(|s| s.problem.is_some()).map(|source| &source.name).collect();
    for (key, id) in config.named().filter(|(_, id)| !there.contains(id) && !away.contains(&id.source)) {
        problems.note(
            &config.path,
            format!("[vm.\"{key}\"] is for a VM that the source {} does not have", id.source),
            "correct its name, or remove it",
        );
    }
}
