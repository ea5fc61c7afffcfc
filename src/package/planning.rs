// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Planning: from a VM's [`Definition`] and the [`Choices`] of the administrator to
//! its [`Plan`], without a look at the host.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::Tool;
use crate::directory::definition::{Definition, Location};
use crate::hypervisor;
use crate::link::id::LinkId;
use crate::plan::guest_owner::GuestOwners;
use crate::plan::pci::{self, MAX_DEVICES, PciAddress};
use crate::plan::runtime::SocketNames;
use crate::plan::uplink::{PortForward, UplinkPlan};
use crate::plan::{
    Accelerator, DefinitionPlace, FilePlan, HypervisorName, InterfacePlan, MANIFEST_VERSION, Plan, SharePlan,
    WaylandPlan,
};

/// The default memory of a VM, in MiB (Spectrum's own 1 GiB).
pub const DEFAULT_MEMORY_MIB: u32 = 1024;
/// The smallest memory, in MiB.
pub const MIN_MEMORY_MIB: u32 = 32;
/// The largest memory, in MiB (4 TiB).
pub const MAX_MEMORY_MIB: u32 = 4 * 1024 * 1024;
/// For how many clients a VM can provide networks by default.
pub const DEFAULT_LINK_PORTS: u8 = 8;
/// For how many clients a VM can provide networks at most: QEMU's free slots have
/// ports for so many.
pub const MAX_LINK_PORTS: u8 = 24;
/// The default address space for the buffers of a VM's windows, in MiB.
pub const DEFAULT_WAYLAND_MEMORY_MIB: u32 = 256;
/// The largest address space for the buffers of a VM's windows, in MiB.
pub const MAX_WAYLAND_MEMORY_MIB: u32 = 8192;
/// The largest number of virtual processors that both hypervisors take everywhere.
pub const MAX_VCPUS: u16 = 254;

/// What the administrator chooses for one VM.
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
    /// Where the programs are that running the VM may need.
    pub tools: BTreeMap<Tool, PathBuf>,
    /// How many interfaces of links can be plugged in while the VM runs.
    pub link_ports: u8,
    /// The ids of links, by provider; those of other links are derived.
    pub links: BTreeMap<VmName, LinkId>,
    /// The host's PCI devices that the VM gets.
    pub devices: Vec<PciAddress>,
    /// The address space for the buffers of windows, in MiB, a power of two.
    pub wayland_memory_mib: u32,
    /// The ports of the host that lead to the guest, if the VM has an uplink.
    pub uplink: Option<Vec<PortForward>>,
    /// Whose the shared directories are in the guest.
    pub guest_owners: GuestOwners,
}

/// What executes the guest's instructions: `chosen`, or else what `probe` finds out.
/// Cloud Hypervisor always uses KVM.
pub fn accelerator(
    hypervisor: HypervisorName,
    chosen: Option<Accelerator>,
    probe: impl FnOnce() -> Accelerator,
) -> Accelerator {
    match hypervisor {
        HypervisorName::CloudHypervisor => Accelerator::Kvm,
        HypervisorName::Qemu => chosen.unwrap_or_else(probe),
    }
}

/// Checks the choices together with a definition: the chosen hypervisor may lack a
/// device, for example.
fn check(definition: &Definition, choices: &Choices) -> Problems {
    let directory = definition.location.directory();
    let mut problems = check_choices(choices, &directory);
    if definition.wayland {
        problems.extend(wayland_problem(&definition.location, choices.hypervisor, &|| Ok(())));
    }
    if !definition.shares.is_empty() {
        require(Tool::Virtiofsd, choices, &directory, "", &mut problems);
    }
    let is_there = |tag: &str| definition.shares.iter().any(|share| share.tag == tag);
    for tag in choices.guest_owners.of_tags.keys().filter(|tag| !is_there(tag)) {
        problems.error(
            directory.join("shared-dirs").join(tag),
            "does not exist, but was given an owner in the guest",
            "create it, or give no guest-uid and no guest-gid to that tag",
        );
    }
    let own = definition.images.len()
        + definition.shares.len()
        + definition.network_providers.len()
        + usize::from(definition.wayland)
        + usize::from(choices.uplink.is_some());
    let room = hypervisor::description(choices.hypervisor).room_for_devices(own, choices.link_ports.into());
    let cause = match room {
        Some(room) if choices.devices.len() <= room => return problems,
        Some(room) => format!(
            "{} has room for {room} PCI devices besides the VM's other devices, and {} are chosen",
            choices.hypervisor,
            choices.devices.len()
        ),
        None => format!(
            "{} has no room for {} ports for clients besides the VM's other devices",
            choices.hypervisor, choices.link_ports
        ),
    };
    let remedy = "choose fewer devices or ports for clients (link-ports), or remove images or shares";
    problems.error(&directory, cause, remedy);
    problems
}

/// Checks the choices for the VM in `directory`, whose definition may have errors.
pub fn check_choices(choices: &Choices, directory: &Path) -> Problems {
    let mut problems = check_sizes(&Sizes::of(choices), directory);
    let is_here = |hypervisor: HypervisorName| {
        let tools = hypervisor::description(hypervisor).tools(choices.architecture);
        tools.iter().all(|tool| choices.tools.contains_key(tool))
    };
    let another = HypervisorName::ALL.into_iter().find(|other| is_here(*other));
    let instead = another.map_or_else(String::new, |other| {
        format!(
            "choose {other}, which is here (--hypervisor {other}, for sync hypervisor = \"{other}\"), or "
        )
    });
    for tool in hypervisor::description(choices.hypervisor).tools(choices.architecture) {
        require(*tool, choices, directory, &instead, &mut problems);
    }
    if choices.uplink.is_some() {
        require(Tool::Passt, choices, directory, "", &mut problems);
    }
    problems
}

/// The sizes of a VM, as [`Choices`] has them.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// The guest's memory, in MiB.
    pub memory_mib: u32,
    /// The number of virtual processors.
    pub vcpus: u16,
    /// How many interfaces of links can be plugged in while the VM runs.
    pub link_ports: u8,
    /// The host's PCI devices that the VM gets.
    pub devices: &'a [PciAddress],
    /// The address space for the buffers of windows, in MiB.
    pub wayland_memory_mib: u32,
}

impl<'a> Sizes<'a> {
    fn of(choices: &'a Choices) -> Self {
        let Choices { memory_mib, vcpus, link_ports, ref devices, wayland_memory_mib, .. } = *choices;
        Self { memory_mib, vcpus, link_ports, devices, wayland_memory_mib }
    }
}

/// Checks whether a VM can be that large; `path` is what chooses these sizes.
pub fn check_sizes(sizes: &Sizes<'_>, path: &Path) -> Problems {
    let Sizes { memory_mib, vcpus, link_ports, devices, wayland_memory_mib } = *sizes;
    let mut problems = Problems::default();
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
        problems.error(
            path,
            format!("cannot have {memory_mib} MiB of memory"),
            format!("choose between {MIN_MEMORY_MIB} and {MAX_MEMORY_MIB} MiB"),
        );
    }
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        problems.error(
            path,
            format!("cannot have {vcpus} virtual processors"),
            format!("choose between 1 and {MAX_VCPUS}"),
        );
    }
    if link_ports > MAX_LINK_PORTS {
        problems.error(
            path,
            format!("cannot have ports for {link_ports} clients"),
            format!("choose at most {MAX_LINK_PORTS}"),
        );
    }
    // QEMU aborts on a size that is no power of two.
    if wayland_memory_mib > MAX_WAYLAND_MEMORY_MIB || !wayland_memory_mib.is_power_of_two() {
        problems.error(
            path,
            format!("cannot have {wayland_memory_mib} MiB for the buffers of windows (wayland-memory)"),
            format!("choose a power of two, at most {MAX_WAYLAND_MEMORY_MIB} MiB"),
        );
    }
    if devices.len() > MAX_DEVICES {
        problems.error(
            path,
            format!("cannot have {} PCI devices", devices.len()),
            format!("choose at most {MAX_DEVICES}"),
        );
    }
    if let Some(device) = pci::repeated(devices) {
        problems.error(path, format!("cannot have the PCI device {device} twice"), "choose it once");
    }
    problems
}

/// What keeps the hypervisor of a VM with `wayland` from showing windows, if anything;
/// `ask_qemu` finds out whether the QEMU that will run it can.
pub fn wayland_problem(
    location: &Location,
    hypervisor: HypervisorName,
    ask_qemu: &dyn Fn() -> Result<(), String>,
) -> Option<Problem> {
    const OR: &str = "or remove it to run the VM without windows";
    let (cause, remedy) = match hypervisor::description(hypervisor).lacks_wayland() {
        Some(why) => (
            format!("{hypervisor} has no virtio-gpu device with the cross-domain context: {why}"),
            format!("choose hypervisor = \"qemu\" for this VM (--hypervisor qemu), {OR}"),
        ),
        None => (
            ask_qemu().err()?,
            format!(
                "use QEMU 8.2 or later that is built with rutabaga, as package qemu of Nixpkgs is and Debian's is \
                 not (--tool, for sync in [tools] of the configuration), {OR}"
            ),
        ),
    };
    Some(Problem::error(location.directory().join("wayland"), cause, remedy))
}

/// What keeps passt from connecting a VM of this hypervisor, if anything; `ask_passt` finds out
/// whether the passt that will do so has vhost-user.
pub fn uplink_problem(
    directory: &Path,
    hypervisor: HypervisorName,
    ask_passt: &dyn Fn() -> bool,
) -> Option<Problem> {
    if !hypervisor::description(hypervisor).uplink_is_vhost_user() || ask_passt() {
        return None;
    }
    Some(Problem::error(
        directory,
        format!("has an uplink, and this passt has no vhost-user, which {hypervisor} needs"),
        "use passt 2024_11 or later (Debian 13 and Nixpkgs have it; --tool, for sync in [tools] of the configuration), or \
         hypervisor = \"qemu\" for this VM (--hypervisor qemu)",
    ))
}

/// Reports a tool that is missing; the remedy begins with what can be done `instead`.
fn require(tool: Tool, choices: &Choices, directory: &Path, instead: &str, problems: &mut Problems) {
    if !choices.tools.contains_key(&tool) {
        problems.push(Problem::error(
            directory,
            format!("needs the program {tool}, which is not in PATH"),
            format!(
                "{instead}install it ({}), or name its path: --tool {tool}=PATH, for sync in [tools] of the configuration",
                tool.origin()
            ),
        ));
    }
}

/// Makes the plan of a VM.
///
/// # Errors
/// Every problem of the choices, alone and together with the definition, and every
/// path that is not UTF-8, which JSON cannot carry.
pub fn make(definition: &Definition, choices: &Choices) -> Result<Plan, Problems> {
    let mut problems = check(definition, choices);
    let tools = tools(definition, choices);
    check_texts(definition, &tools, &mut problems);
    let interfaces = interfaces(definition, &choices.links, &mut problems);
    problems.or(())?;
    let has_vhost_user =
        choices.uplink.is_some() && hypervisor::description(choices.hypervisor).uplink_is_vhost_user();
    Ok(Plan {
        version: MANIFEST_VERSION,
        name: definition.name.clone(),
        architecture: choices.architecture,
        hypervisor: choices.hypervisor,
        accelerator: choices.accelerator,
        memory_mib: choices.memory_mib,
        shared_memory: !definition.shares.is_empty() || has_vhost_user,
        vcpus: choices.vcpus,
        definition: DefinitionPlace {
            directory: definition.location.relative.clone(),
            boundary: definition.location.boundary.clone(),
        },
        kernel: FilePlan { entry: "vmlinux".to_owned(), path: definition.kernel.clone() },
        kernel_command_line: choices.architecture.kernel_command_line().to_owned(),
        images: definition
            .images
            .iter()
            .map(|image| FilePlan { entry: image.entry.clone(), path: image.path.clone() })
            .collect(),
        shares: shares(definition, &choices.guest_owners),
        interfaces,
        uplink: choices.uplink.as_ref().map(|ports| UplinkPlan::new(&definition.name, ports)),
        link_ports: choices.link_ports,
        pci_devices: choices.devices.clone(),
        wayland: definition.wayland.then_some(WaylandPlan { memory_mib: choices.wayland_memory_mib }),
        tools,
    })
}

/// Those of the tools that the VM needs.
fn tools(definition: &Definition, choices: &Choices) -> BTreeMap<Tool, PathBuf> {
    let of_vmm = hypervisor::description(choices.hypervisor).tools(choices.architecture);
    let is_needed = |tool: &Tool| {
        of_vmm.contains(tool)
            || match tool {
                Tool::MicrovmSpectrum => true,
                Tool::Virtiofsd => !definition.shares.is_empty(),
                Tool::Passt => choices.uplink.is_some(),
                Tool::Ip | Tool::Nft => !definition.network_providers.is_empty(),
                _ => false,
            }
    };
    choices
        .tools
        .iter()
        .filter(|(tool, _)| is_needed(tool))
        .map(|(tool, path)| (*tool, path.clone()))
        .collect()
}

/// Reports paths that JSON cannot carry.
fn check_texts(definition: &Definition, tools: &BTreeMap<Tool, PathBuf>, problems: &mut Problems) {
    let boundary = &definition.location.boundary;
    let paths = tools
        .values()
        .chain([&boundary.user_partition, &definition.location.relative])
        .chain(boundary.allowed.iter().flat_map(|a| [&a.prefix, &a.directory]));
    for path in paths.filter(|path| path.to_str().is_none()) {
        problems.error(path, "this path is not UTF-8", "use a path of UTF-8 text");
    }
}

fn shares(definition: &Definition, owners: &GuestOwners) -> Vec<SharePlan> {
    let sockets = SocketNames::new(&definition.name);
    let shares = definition.shares.iter().enumerate();
    shares
        .map(|(index, share)| {
            let (guest_uid, guest_gid) = owners.of(&share.tag);
            SharePlan {
                tag: share.tag.clone(),
                entry: share.entry.clone(),
                source: share.source.clone(),
                socket: sockets.virtiofsd(index),
                guest_uid,
                guest_gid,
            }
        })
        .collect()
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
            format!("does not exist, but the link to {unknown} was given an id"),
            "create it, or give no id to that link",
        );
    }
    let mut taken: BTreeSet<_> = chosen.values().copied().collect();
    if taken.len() < chosen.len() {
        problems.error(&providers, "two links have the same id", "give them different ids");
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
