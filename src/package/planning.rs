// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Planning: everything that running one VM takes, decided.
//!
//! The plan is a pure function of a [`Definition`] and the [`Choices`] of
//! whoever builds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::Tool;
use crate::directory::definition::{Definition, Location};
use crate::link::id::LinkId;
use crate::plan::pci::{self, MAX_DEVICES, PciAddress};
use crate::plan::runtime::SocketNames;
use crate::plan::{
    Accelerator, DefinitionPlace, FilePlan, HypervisorName, InterfacePlan, MANIFEST_VERSION, Plan, SharePlan,
};

/// The memory of a VM when nobody chooses, in MiB (Spectrum's own 1 GiB).
pub const DEFAULT_MEMORY_MIB: u32 = 1024;
/// The smallest memory that can be chosen, in MiB.
pub const MIN_MEMORY_MIB: u32 = 32;
/// The largest memory that can be chosen, in MiB (4 TiB).
pub const MAX_MEMORY_MIB: u32 = 4 * 1024 * 1024;
/// For how many clients a VM can provide networks, when nobody chooses.
pub const DEFAULT_LINK_PORTS: u8 = 8;
/// The most that can be chosen: what fits into the slots that are left.
pub const MAX_LINK_PORTS: u8 = 24;
/// The most virtual processors: what both hypervisors take everywhere.
pub const MAX_VCPUS: u16 = 254;

/// What whoever builds decides about one VM.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The hypervisor that runs it.
    pub hypervisor: HypervisorName,
    /// The architecture of host and guest.
    pub architecture: Architecture,
    /// The guest's memory, in MiB.
    pub memory_mib: u32,
    /// The number of virtual processors.
    pub vcpus: u16,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// Where the programs are that running the VM takes.
    pub tools: BTreeMap<Tool, PathBuf>,
    /// How many interfaces of links can be plugged in.
    pub link_ports: u8,
    /// The ids of links that were chosen, by provider; the others are derived.
    pub links: BTreeMap<VmName, LinkId>,
    /// The host's PCI devices that the VM gets.
    pub devices: Vec<PciAddress>,
}

/// Checks everything that can be said before a plan is made.
///
/// These are the problems of a definition *with* the choices, for example a
/// device that the chosen hypervisor does not have.
pub fn check(definition: &Definition, choices: &Choices) -> Problems {
    let directory = definition.location.directory();
    let mut problems = check_choices(choices, &directory);
    if definition.wayland {
        check_wayland(&definition.location, choices.hypervisor, &mut problems);
    }
    if !definition.shares.is_empty() {
        require(Tool::Virtiofsd, choices, &directory, &mut problems);
    }
    let own = definition.images.len() + definition.shares.len() + definition.network_providers.len();
    let room = choices.hypervisor.implementation().room_for_devices(own, choices.link_ports.into());
    if choices.devices.len() > room {
        problems.error(
            &directory,
            format!(
                "{} has room for {room} PCI devices beside what else this VM has, and {} are chosen",
                choices.hypervisor,
                choices.devices.len()
            ),
            "choose fewer, or fewer ports for clients (link-ports), or have fewer images and shares",
        );
    }
    problems
}

/// Checks the choices that were made for `directory`, whatever is in it.
pub fn check_choices(choices: &Choices, directory: &Path) -> Problems {
    let mut problems = Problems::default();
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&choices.memory_mib) {
        problems.error(
            directory,
            format!("cannot have {} MiB of memory", choices.memory_mib),
            format!("choose between {MIN_MEMORY_MIB} and {MAX_MEMORY_MIB} MiB"),
        );
    }
    if !(1..=MAX_VCPUS).contains(&choices.vcpus) {
        problems.error(
            directory,
            format!("cannot have {} virtual processors", choices.vcpus),
            format!("choose between 1 and {MAX_VCPUS}"),
        );
    }
    if choices.link_ports > MAX_LINK_PORTS {
        problems.error(
            directory,
            format!("cannot have ports for {} clients", choices.link_ports),
            format!("choose at most {MAX_LINK_PORTS}"),
        );
    }
    if choices.devices.len() > MAX_DEVICES {
        problems.error(
            directory,
            format!("cannot have {} PCI devices", choices.devices.len()),
            format!("choose at most {MAX_DEVICES}"),
        );
    }
    if let Some(device) = pci::repeated(&choices.devices) {
        problems.error(directory, format!("cannot have the PCI device {device} twice"), "choose it once");
    }
    for tool in choices.hypervisor.implementation().tools(choices.architecture) {
        require(*tool, choices, directory, &mut problems);
    }
    problems
}

/// Checks whether `hypervisor` can show the windows of a VM with `wayland`.
pub fn check_wayland(location: &Location, hypervisor: HypervisorName, problems: &mut Problems) {
    if let Some(needed) = hypervisor.implementation().wayland_needs() {
        problems.error(
            location.directory().join("wayland"),
            format!("{hypervisor} cannot give a VM a virtio-gpu device with the cross-domain context yet"),
            format!("remove it to run the VM without windows; {needed}"),
        );
    }
}

fn require(tool: Tool, choices: &Choices, directory: &Path, problems: &mut Problems) {
    if !choices.tools.contains_key(&tool) {
        problems.push(Problem::error(
            directory,
            format!("needs the program {tool}, which is not in PATH"),
            format!(
                "install it ({}), or name it: --tool {tool}=PATH, for sync in [tools] of the configuration",
                tool.origin()
            ),
        ));
    }
}

/// Makes the plan of a VM.
///
/// # Errors
/// All problems of [`check`], and names in the paths of the definition or of
/// tools that JSON cannot carry.
pub fn make(definition: &Definition, choices: &Choices) -> Result<Plan, Problems> {
    let mut problems = check(definition, choices);
    let tools: BTreeMap<_, _> = choices
        .tools
        .iter()
        .filter(|(tool, _)| {
            choices.hypervisor.implementation().tools(choices.architecture).contains(tool)
                || **tool == Tool::MicrovmSpectrum
                || (**tool == Tool::Virtiofsd && !definition.shares.is_empty())
                || (matches!(tool, Tool::Ip | Tool::Nft) && !definition.network_providers.is_empty())
        })
        .map(|(tool, path)| (*tool, path.clone()))
        .collect();
    let boundary = &definition.location.boundary;
    let paths = tools
        .values()
        .chain([&boundary.user_partition, &definition.location.relative])
        .chain(boundary.allowed.iter().flat_map(|a| [&a.prefix, &a.directory]));
    for path in paths {
        if path.to_str().is_none() {
            problems.error(path, "this path is not UTF-8", "use a path of UTF-8 text");
        }
    }
    let interfaces = interfaces(definition, &choices.links, &mut problems);
    if problems.has_errors() {
        return Err(problems);
    }
    let sockets = SocketNames::new(&definition.name);
    Ok(Plan {
        version: MANIFEST_VERSION,
        name: definition.name.clone(),
        architecture: choices.architecture,
        hypervisor: choices.hypervisor,
        accelerator: choices.accelerator,
        memory_mib: choices.memory_mib,
        shared_memory: !definition.shares.is_empty(),
        vcpus: choices.vcpus,
        definition: DefinitionPlace {
            directory: definition.location.relative.clone(),
            boundary: boundary.clone(),
        },
        kernel: FilePlan { entry: "vmlinux".to_owned(), path: definition.kernel.clone() },
        kernel_command_line: choices.architecture.kernel_command_line().to_owned(),
        images: definition
            .images
            .iter()
            .map(|image| FilePlan { entry: image.entry.clone(), path: image.path.clone() })
            .collect(),
        shares: definition
            .shares
            .iter()
            .enumerate()
            .map(|(index, share)| SharePlan {
                tag: share.tag.clone(),
                entry: share.entry.clone(),
                source: share.source.clone(),
                socket: sockets.virtiofsd(index),
            })
            .collect(),
        interfaces,
        link_ports: choices.link_ports,
        pci_devices: choices.devices.clone(),
        tools,
    })
}

fn interfaces(
    definition: &Definition,
    chosen: &BTreeMap<VmName, LinkId>,
    problems: &mut Problems,
) -> Vec<InterfacePlan> {
    let providers = definition.location.directory().join("providers/net");
    for unknown in chosen.keys().filter(|name| !definition.network_providers.contains(name)) {
        problems.error(
            providers.join(unknown.as_str()),
            format!("does not exist, and an id is chosen for a link to {unknown}"),
            "create it, or choose no id for that link",
        );
    }
    let mut taken: BTreeSet<_> = chosen.values().copied().collect();
    if taken.len() < chosen.len() {
        problems.error(&providers, "two links have the same id", "choose different ones");
    }
    let mut interfaces = Vec::new();
    for provider in &definition.network_providers {
        let id = chosen
            .get(provider)
            .map_or_else(|| LinkId::derive(&definition.name, provider, &taken), |id| Ok(*id));
        match id {
            Ok(id) => {
                taken.insert(id);
                interfaces.push(InterfacePlan {
                    provider: provider.clone(),
                    link: id,
                    tap: id.client_tap(),
                    mac: id.client_mac(),
                    ipv4: id.client_ipv4(),
                });
            }
            Err(error) => problems.error(
                providers.join(provider.as_str()),
                error.to_string(),
                "remove links that are no longer needed",
            ),
        }
    }
    interfaces
}
