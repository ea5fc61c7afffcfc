// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`: from the sources to a new generation of the state directory.
//!
//! All sources are scanned, runner packages are built for what changed, and one
//! rename switches from the old catalog to the new one. Whenever it is
//! interrupted, the old catalog or the new one is there, complete.

mod access;
mod generation;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::architecture::Architecture;
use crate::catalog::{Catalog, CatalogLink, CatalogProblem, CatalogVm, Runnable, VmState};
use crate::config::{AcceleratorChoice, Config};
use crate::definition::{self, Definition, Location};
use crate::lease::{DeclaredLink, Leases};
use crate::link::LinkId;
use crate::manifest::{Accelerator, HypervisorName, Plan};
use crate::name::{SourceName, VmId, VmName};
use crate::network_graph;
use crate::package::Package;
use crate::pci;
use crate::plan::{self, Choices};
use crate::problem::{Problem, Problems};
use crate::state_directory::StateDirectory;
use crate::tool::Tool;

pub use generation::Installed;

/// What `sync` is given besides the configuration.
pub struct Host<'a> {
    /// Where the VMs go.
    pub state: &'a StateDirectory,
    /// The architecture of the host.
    pub architecture: Architecture,
    /// Where the programs are that running VMs takes.
    pub tools: BTreeMap<Tool, PathBuf>,
    /// Tells what executes guests' instructions when nobody chose; asked once at most.
    pub accelerator: &'a mut dyn FnMut() -> Accelerator,
    /// User ids that somebody else has.
    pub taken_uids: BTreeSet<u32>,
    /// Whether the VMs will run in the units here, as users of their own.
    pub for_units: bool,
    /// Link ids that are declared, and so nobody else's; found by [`run`].
    pub reserved_links: BTreeSet<LinkId>,
    /// Declared links that cannot have their id, and who has it; found by [`run`].
    pub refused_links: Vec<(DeclaredLink, VmId, VmName)>,
}

/// Why `sync` could do nothing.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The state directory is not what it should be.
    #[error("{0}")]
    Refused(Problem),
    /// The system refused.
    #[error("{} cannot be written: {error}", .path.display())]
    Io {
        /// What was to be written.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// What `sync` did.
pub struct Synced {
    /// The catalog that is there now.
    pub catalog: Catalog,
    /// The catalog that was there before, if there was one.
    pub before: Option<Catalog>,
    /// What is wrong with sources, VM directories and settings.
    pub problems: Problems,
    /// Whether there is a new generation.
    pub changed: bool,
}

/// A VM that can run, and its package.
struct Built {
    name: VmName,
    file_name: String,
    package: Package,
}

/// Brings the state directory up to date.
///
/// # Errors
/// When nothing could be done; the old catalog is then still there.
pub fn run(config: &Config, mut host: Host<'_>) -> Result<Synced, SyncError> {
    let mut state = generation::Transaction::begin(host.state)?;
    let before = state.catalog();
    let mut leases = Leases::read(&host.state.leases()).map_err(SyncError::Refused)?;
    let leases_before = leases.clone();
    for (vm, runnable) in before.iter().flat_map(Catalog::runnable) {
        let links = runnable.links.iter().filter_map(|l| Some((l.provider.clone(), l.id.parse().ok()?)));
        leases.adopt(&vm.id(), runnable.uid, links);
    }
    let declared: Vec<_> = config
        .declared_links()
        .map(|(client, provider, id)| DeclaredLink { client, provider: provider.clone(), id })
        .collect();
    host.refused_links = leases.declare_links(&declared);
    host.reserved_links = declared.iter().map(|link| link.id).collect();
    let mut problems = Problems::default();
    let (vms, built) = scan(config, &mut host, &mut leases, before.as_ref(), &mut problems);
    if leases != leases_before {
        // Before anything is called by them.
        leases
            .write(&host.state.leases())
            .map_err(|error| SyncError::Io { path: host.state.leases(), error })?;
    }
    let installed = state.install(vms, &built, before.as_ref())?;
    Ok(Synced { catalog: installed.catalog, before, problems, changed: installed.changed })
}

/// Where a VM was found.
enum Place {
    /// In a source.
    Here(Location),
    /// In a source that cannot be read now, and why: as the catalog had it.
    Away(CatalogVm, CatalogProblem),
}

/// Reads all VMs of all sources and plans those that can run.
///
/// Those of a source that went away stay in the catalog, so that no other VM
/// takes a name of theirs meanwhile.
fn scan(
    config: &Config,
    host: &mut Host<'_>,
    leases: &mut Leases,
    before: Option<&Catalog>,
    problems: &mut Problems,
) -> (Vec<CatalogVm>, Vec<Built>) {
    let mut found: BTreeMap<VmName, Vec<(SourceName, Place)>> = BTreeMap::new();
    for source in &config.sources {
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
                            problems.extend(
                                definition::read(&location, host.architecture).problems.into_sorted(),
                            );
                        }
                    }
                }
            }
            Err(problem) => {
                let away = CatalogProblem::from(&problem);
                problems.push(problem);
                let vms = before.into_iter().flat_map(|catalog| &catalog.vms);
                for vm in vms.filter(|vm| vm.source == source.name) {
                    let place = (source.name.clone(), Place::Away(vm.clone(), away.clone()));
                    found.entry(vm.name.clone()).or_default().push(place);
                }
            }
        }
    }
    let (mut vms, mut built) = (Vec::new(), Vec::new());
    let mut links = BTreeMap::new();
    for (name, places) in found {
        let mut first: Option<SourceName> = None;
        for (source, place) in places {
            let id = VmId { source: source.clone(), name: name.clone() };
            let directory = match &place {
                Place::Here(location) => crate::printable::printable(location.directory()),
                Place::Away(vm, _) => vm.directory.clone(),
            };
            let state = match (&first, place) {
                (Some(by), _) => VmState::Shadowed { by: by.clone() },
                (None, Place::Away(_, problem)) => VmState::Broken { problems: vec![problem] },
                (None, Place::Here(location)) => match prepare(&id, &location, config, host, leases) {
                    Ok((runnable, package)) => {
                        let file_name = runnable.package.clone();
                        built.push(Built { name: name.clone(), file_name, package });
                        let providers = runnable.links.iter().map(|link| link.provider.clone());
                        links.insert(name.clone(), providers.collect::<Vec<_>>());
                        VmState::Runnable(runnable)
                    }
                    Err(wrong) => {
                        let wrong = wrong.into_sorted();
                        let state = VmState::Broken { problems: CatalogProblem::errors(&wrong) };
                        problems.extend(wrong);
                        state
                    }
                },
            };
            first.get_or_insert_with(|| source.clone());
            vms.push(CatalogVm { name: name.clone(), source, directory, state });
        }
    }
    block(&mut vms, &mut built, &links, problems);
    (vms, built)
}

/// Takes out what cannot run because of the VMs that provide its networks.
fn block(
    vms: &mut [CatalogVm],
    built: &mut Vec<Built>,
    links: &BTreeMap<VmName, Vec<VmName>>,
    problems: &mut Problems,
) {
    let is_broken = |vm: &&CatalogVm| matches!(vm.state, VmState::Broken { .. });
    let broken = vms.iter().filter(is_broken).map(|vm| vm.name.clone()).collect();
    let blocked = network_graph::blocked(links, &broken);
    for vm in vms.iter_mut().filter(|vm| matches!(vm.state, VmState::Runnable(_))) {
        let Some(reasons) = blocked.get(&vm.name) else { continue };
        let remedy = "provide that VM, or remove its entry from providers/net";
        let path = Path::new(&vm.directory).join("providers/net");
        let found: Vec<_> =
            reasons.iter().map(|reason| Problem::error(&path, reason.to_string(), remedy)).collect();
        vm.state = VmState::Blocked { problems: CatalogProblem::errors(&found) };
        problems.extend(found);
    }
    built.retain(|built| !blocked.contains_key(&built.name));
}

/// Reads and plans one VM.
fn prepare(
    id: &VmId,
    location: &Location,
    config: &Config,
    host: &mut Host<'_>,
    leases: &mut Leases,
) -> Result<(Runnable, Package), Problems> {
    let settings = config.settings(id);
    let hypervisor = settings.hypervisor.unwrap_or(HypervisorName::CloudHypervisor);
    let accelerator = match hypervisor {
        HypervisorName::Qemu => settings.accel.and_then(AcceleratorChoice::chosen),
        HypervisorName::CloudHypervisor => Some(Accelerator::Kvm),
    };
    let mut choices = Choices {
        hypervisor,
        architecture: host.architecture,
        memory_mib: settings.memory.unwrap_or(plan::DEFAULT_MEMORY_MIB),
        vcpus: settings.vcpus.unwrap_or(1),
        accelerator: accelerator.unwrap_or_else(|| (host.accelerator)()),
        tools: host.tools.clone(),
        link_ports: settings.link_ports.unwrap_or(plan::DEFAULT_LINK_PORTS),
        links: BTreeMap::new(),
        devices: settings.devices.clone(),
    };
    let reading = definition::read(location, host.architecture);
    let mut problems = reading.problems;
    if let Some(definition) = &reading.definition {
        choices.links = links(id, definition, &settings.links, host, leases, &mut problems);
    }
    if host.state.is_anothers(&id.name) {
        problems.error(
            host.state.vm(&id.name),
            format!("belongs to a VM that was installed otherwise, whose place {id} cannot take"),
            "remove that VM, or rename one of them",
        );
    } else if host.state.vm(&id.name).symlink_metadata().is_ok()
        && let Err(problem) = generation::trusted(&host.state.vm(&id.name))
    {
        problems.push(problem);
    }
    let plan = match reading.definition {
        Some(definition) => plan::make(&definition, &choices),
        None => {
            let mut problems = plan::check_choices(&choices, &location.directory());
            if reading.wayland {
                plan::check_wayland(location, hypervisor, &mut problems);
            }
            Err(problems)
        }
    };
    let plan = match plan {
        Ok(plan) => {
            keep_apart(&plan, location, config, host.state, &mut problems);
            plan
        }
        Err(more) => {
            problems.extend(more.into_sorted());
            return Err(problems);
        }
    };
    let uid = leases.uid(id, &config.uids, &host.taken_uids).map_err(|error| {
        let mut problems = Problems::default();
        problems.error(location.directory(), error.to_string(), "widen [uids] in the configuration");
        problems
    })?;
    if host.for_units {
        access::check(&plan, uid, &mut problems);
        pci::check_present(Path::new(pci::SYS), &plan.pci_devices, &mut problems);
    }
    if problems.has_errors() {
        return Err(problems);
    }
    let package = Package::of(&plan);
    let runnable = runnable(&plan, &package, uid, settings.autostart.unwrap_or(false));
    Ok((runnable, package))
}

/// The ids of a VM's links: declared, leased, or leased now.
fn links(
    id: &VmId,
    definition: &Definition,
    declared: &BTreeMap<VmName, LinkId>,
    host: &Host<'_>,
    leases: &mut Leases,
    problems: &mut Problems,
) -> BTreeMap<VmName, LinkId> {
    let mut links = declared.clone();
    for provider in &definition.network_providers {
        let shown = location_of(definition, provider);
        if let Some(wanted) = declared.get(provider) {
            let of_this = |link: &DeclaredLink| link.client == *id && link.provider == *provider;
            if let Some((_, client, other)) = host.refused_links.iter().find(|(link, ..)| of_this(link)) {
                problems.error(
                    shown,
                    format!("cannot have the link id {wanted}, which the link from {client} to {other} has"),
                    "declare another id",
                );
            }
            continue;
        }
        match leases.link(id, provider, &host.reserved_links) {
            Ok(link) => drop(links.insert(provider.clone(), link)),
            Err(error) => problems.error(shown, error.to_string(), "remove links that are no longer needed"),
        }
    }
    links
}

fn location_of(definition: &Definition, provider: &VmName) -> PathBuf {
    definition.location.directory().join("providers/net").join(provider.as_str())
}

/// Refuses shared directories by which a guest could change VMs of other
/// sources, which a VM directory alone does not know of, or what is installed.
fn keep_apart(
    plan: &Plan,
    location: &Location,
    config: &Config,
    state: &StateDirectory,
    problems: &mut Problems,
) {
    let sources = config
        .sources
        .iter()
        .map(|source| (source.vm_directories(), format!("the VM directories of the source {}", source.name)));
    let state = std::iter::once((state.root().to_owned(), "the state directory".to_owned()));
    for (directory, what) in sources.chain(state) {
        // One that is not there has nothing to be changed.
        let Ok(directory) = directory.canonicalize() else { continue };
        for share in &plan.shares {
            let source = std::path::Path::new(&share.source);
            if source.starts_with(&directory) || directory.starts_with(source) {
                problems.error(
                    location.directory().join(&share.entry),
                    format!("leads to {}, by which the guest could change {what}", source.display()),
                    "share a directory of its own, apart from VM directories, kernels and images",
                );
            }
        }
    }
}

fn runnable(plan: &Plan, package: &Package, uid: u32, autostart: bool) -> Runnable {
    let identity = package.identity();
    let links = plan.interfaces.iter().map(|interface| CatalogLink {
        provider: interface.provider.clone(),
        id: interface.link.clone(),
        ipv4: interface.ipv4,
    });
    Runnable {
        uid,
        hypervisor: plan.hypervisor,
        package: format!("{}-{}", plan.name, identity.get(..IDENTITY_DIGITS).unwrap_or(&identity)),
        autostart,
        links: links.collect(),
        devices: plan.pci_devices.clone(),
    }
}

/// How many digits of a package's identity are in its name: 128 bits.
const IDENTITY_DIGITS: usize = 32;
