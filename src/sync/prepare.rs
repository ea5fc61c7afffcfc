// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! One VM: from its directory, or from a package that was built elsewhere, to
//! what the catalog says of it.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::FileType;

use super::apart::Apart;
use super::leasing::Leasing;
use super::{Built, Content, Host, access, generation};
use crate::base::name::VmId;
use crate::base::problem::Problems;
use crate::config::{AcceleratorChoice, Settings};
use crate::directory::definition::{Location, Reading};
use crate::directory::stamp::FileStamp;
use crate::package::planning::{self, Choices};
use crate::package::{self, Package};
use crate::plan::pci;
use crate::plan::{Accelerator, HypervisorName, Plan};
use crate::state::catalog::{CatalogLink, Runnable};
use crate::state::nix_store;
use crate::system::trust;

/// A VM that could run by itself.
pub(super) struct Prepared {
    pub runnable: Runnable,
    pub built: Built,
}

/// Plans the VM that was read in the directory at `location`.
pub(super) fn from_directory(
    id: &VmId,
    reading: Reading,
    location: &Location,
    settings: &Settings,
    host: &mut Host<'_>,
    leasing: &mut Leasing<'_>,
    apart: &Apart,
) -> (Option<Prepared>, Problems) {
    let mut problems = reading.problems;
    let mut choices = choices(settings, host);
    if let Some(definition) = &reading.definition {
        choices.links = leasing.links(id, definition, &settings.links, &mut problems);
    }
    check_folder(id, host, &mut problems);
    let (plan, stamps) = match reading.definition {
        Some(definition) => match planning::make(&definition, &choices) {
            Ok(plan) => (plan, definition.stamps),
            Err(more) => {
                problems.extend(more.into_sorted());
                return (None, problems);
            }
        },
        None => {
            problems.extend(planning::check_choices(&choices, &location.directory()).into_sorted());
            if reading.wayland {
                planning::check_wayland(location, choices.hypervisor, &mut problems);
            }
            return (None, problems);
        }
    };
    let shown = location.directory();
    for share in &plan.shares {
        apart.check(Path::new(&share.source), &shown.join(&share.entry), &mut problems);
    }
    let Some(runnable) = runnable(id, &plan, stamps, settings, host, leasing, &shown, &mut problems) else {
        return (None, problems);
    };
    let package = Package::of(&plan);
    let name = package.store_name(&plan.name);
    let package_of_catalog = match host.nix_store {
        Some(_) => nix_store::path(&name).to_string_lossy().into_owned(),
        None => name,
    };
    let mut store_paths = nix_store::paths_of(&plan);
    store_paths.extend(nix_store::path_of(Path::new(&package_of_catalog)));
    let built = Built {
        name: id.name.clone(),
        package: package_of_catalog.clone(),
        content: Content::Ours(package),
        store_paths,
    };
    (Some(Prepared { runnable: Runnable { package: package_of_catalog, ..runnable }, built }), problems)
}

/// Takes the package at `path`, which was built elsewhere, for what it is.
pub(super) fn from_runner(
    id: &VmId,
    path: &Path,
    settings: &Settings,
    host: &mut Host<'_>,
    leasing: &mut Leasing<'_>,
    apart: &Apart,
) -> (Option<Prepared>, Problems) {
    let mut problems = Problems::default();
    check_folder(id, host, &mut problems);
    let Some((found, plan)) = load(id, path, host, &mut problems) else { return (None, problems) };
    for interface in &plan.interfaces {
        leasing.built_link(id, &interface.provider, interface.link, path, &mut problems);
    }
    for share in &plan.shares {
        let boundary = &plan.definition.boundary;
        let shown = boundary.user_partition.join(plan.relative(&share.entry));
        match boundary.resolve(&plan.relative(&share.entry)) {
            // What it was when the package was built, if it was there, does not count.
            Ok(found) if found.file_type() == FileType::Directory => {
                apart.check(&found.path, &shown, &mut problems);
            }
            Ok(_) => problems.error(shown, "does not lead to a directory", "let it lead to one"),
            Err(error) => problems.push(error.problem(&shown)),
        }
    }
    let mut stamps = match plan.stamps() {
        Ok(stamps) => stamps,
        Err(error) => {
            problems.push(error.problem(path));
            return (None, problems);
        }
    };
    match package::stamp(Path::new(&found)) {
        Ok(manifest) => stamps.push(manifest),
        Err(error) => problems.error(path, format!("cannot be looked at: {error}"), "build it again"),
    }
    let Some(runnable) = runnable(id, &plan, stamps, settings, host, leasing, path, &mut problems) else {
        return (None, problems);
    };
    let mut store_paths = nix_store::paths_of(&plan);
    store_paths.extend(nix_store::path_of(Path::new(&found)));
    let built =
        Built { name: id.name.clone(), package: found.clone(), content: Content::Elsewhere, store_paths };
    (Some(Prepared { runnable: Runnable { package: found, ..runnable }, built }), problems)
}

/// Finds and reads a package that was built elsewhere.
fn load(id: &VmId, path: &Path, host: &Host<'_>, problems: &mut Problems) -> Option<(String, Plan)> {
    const REMEDY: &str = "build it by lib.mkRunner of this project's flake, or by microvm-spectrum build";
    let found = if rustix::process::geteuid().is_root() {
        // What root executes, only root can replace.
        trust::resolve_tree(path).map_err(|untrusted| {
            let (cause, remedy) = untrusted.cause_and_remedy();
            problems.error(path, cause, remedy);
        })
    } else {
        path.canonicalize().map_err(|error| {
            problems.error(path, format!("cannot be found: {error}"), "build it first");
        })
    };
    let found = found.ok()?;
    let plan = match package::load(&found) {
        Ok(plan) => plan,
        Err(error) => {
            problems.error(path, format!("is no package of this program: {error}"), REMEDY);
            return None;
        }
    };
    if plan.name != id.name {
        problems.error(
            path,
            format!("is the package of the VM {}, not of {}", plan.name, id.name),
            format!("write [vm.{}], or build it by the name {}", plan.name, id.name),
        );
    }
    if plan.architecture != host.architecture {
        problems.error(
            path,
            format!("is for {}, and this host is {}", plan.architecture.as_str(), host.architecture.as_str()),
            REMEDY,
        );
    }
    let Some(text) = found.to_str() else {
        problems.error(path, "this path is not UTF-8", "use a path of UTF-8 text");
        return None;
    };
    Some((text.to_owned(), plan))
}

fn choices(settings: &Settings, host: &mut Host<'_>) -> Choices {
    let hypervisor = settings.hypervisor.unwrap_or(HypervisorName::CloudHypervisor);
    let accelerator = match hypervisor {
        HypervisorName::Qemu => settings.accel.and_then(AcceleratorChoice::chosen),
        HypervisorName::CloudHypervisor => Some(Accelerator::Kvm),
    };
    Choices {
        hypervisor,
        architecture: host.architecture,
        memory_mib: settings.memory.unwrap_or(planning::DEFAULT_MEMORY_MIB),
        vcpus: settings.vcpus.unwrap_or(1),
        accelerator: accelerator.unwrap_or_else(|| (host.accelerator)()),
        tools: host.tools.clone(),
        link_ports: settings.link_ports.unwrap_or(planning::DEFAULT_LINK_PORTS),
        links: BTreeMap::new(),
        devices: settings.devices.clone(),
    }
}

/// Checks that the VM's folder in the state directory is, or can be, ours.
fn check_folder(id: &VmId, host: &Host<'_>, problems: &mut Problems) {
    let folder = host.state.vm(&id.name);
    if host.state.is_anothers(&id.name) {
        problems.error(
            folder,
            format!("belongs to a VM that was installed otherwise, whose place {id} cannot take"),
            "remove that VM, or rename one of them",
        );
    } else if folder.symlink_metadata().is_ok()
        && let Err(problem) = generation::trusted_folder(&folder)
    {
        problems.push(problem);
    }
}

/// What the catalog says of a VM that could run by itself, but its package.
#[allow(clippy::too_many_arguments)]
fn runnable(
    id: &VmId,
    plan: &Plan,
    files: Vec<FileStamp>,
    settings: &Settings,
    host: &Host<'_>,
    leasing: &mut Leasing<'_>,
    shown: &Path,
    problems: &mut Problems,
) -> Option<Runnable> {
    let uid = leasing.uid(id, shown, problems)?;
    if host.for_units {
        access::check(plan, uid, problems);
        pci::check_present(Path::new(pci::SYS), &plan.pci_devices, problems);
    }
    if problems.has_errors() {
        return None;
    }
    let links = plan.interfaces.iter().map(|interface| CatalogLink {
        provider: interface.provider.clone(),
        id: interface.link.to_string(),
        ipv4: interface.ipv4,
    });
    Some(Runnable {
        uid,
        hypervisor: plan.hypervisor,
        package: String::new(),
        autostart: settings.autostart.unwrap_or(false),
        restart_if_changed: settings.restart_if_changed.unwrap_or(false),
        links: links.collect(),
        devices: plan.pci_devices.clone(),
        files,
    })
}
