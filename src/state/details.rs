// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Everything there is to know of one installed VM.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::base::name::VmName;
use crate::base::printable::Printable;
use crate::link::id::LinkId;
use crate::package::MANIFEST;
use crate::plan::uplink::UplinkPlan;
use crate::plan::{Accelerator, Plan};
use crate::state::catalog::{CatalogProblem, CatalogVm};
use crate::state::installed::Installed;
use crate::state::status::VmStatus;
use crate::system::systemd::UnitStatus;
use crate::system::{journal, trust};

/// How many lines of its serial console are shown.
const LOG_LINES: u32 = 10;

/// One VM, for people and programs. All texts are printable.
#[derive(Debug, Serialize)]
pub struct VmDetails {
    /// What `list` has.
    #[serde(flatten)]
    pub status: VmStatus,
    /// Its directory on this host.
    pub directory: Option<Printable>,
    /// What keeps it from running, with remedies.
    pub problems: Vec<CatalogProblem>,
    /// The unit that it requires and that has failed.
    pub failed_unit: Option<Printable>,
    /// Since when it is in its state, in seconds since 1970.
    pub since: Option<u64>,
    /// The memory that its processes use on the host, in bytes.
    pub memory_used: Option<u64>,
    /// The processor time that its processes have used, in nanoseconds.
    pub cpu_used_ns: Option<u64>,
    /// What its package says: the one that it runs from, or that its next start will run.
    #[serde(flatten)]
    pub machine: Option<Machine>,
    /// The last lines of its serial console.
    pub log: Vec<Printable>,
}

/// What a package of this program says of its VM.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The guest's memory, in MiB.
    pub memory_mib: u32,
    /// The number of virtual processors.
    pub vcpus: u16,
    /// The links to network providers.
    pub links: Vec<Link>,
    /// The connection to the host's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// The shared directories.
    pub shares: Vec<Share>,
    /// The disk images.
    pub images: Vec<Image>,
    /// The host's PCI devices.
    pub pci_devices: Vec<String>,
}

/// A link to a network provider.
#[derive(Debug, Serialize)]
pub struct Link {
    /// The VM that provides the network.
    pub provider: VmName,
    /// The link's id.
    pub id: LinkId,
    /// The address that the guest takes.
    pub ipv4: Ipv4Addr,
    /// The MAC address that the guest sees.
    pub mac: String,
}

/// The connection of a VM to the host's network.
#[derive(Debug, Serialize)]
pub struct Uplink {
    /// The address that the guest gets.
    pub ipv4: Ipv4Addr,
    /// The MAC address that the guest sees.
    pub mac: String,
    /// The ports of the host that lead to the guest.
    pub ports: Vec<String>,
}

impl Uplink {
    fn of(plan: &UplinkPlan) -> Self {
        let ports = plan.ports.iter().map(ToString::to_string).collect();
        Self { ipv4: plan.ipv4, mac: plan.mac.to_string(), ports }
    }
}

/// A shared directory.
#[derive(Debug, Serialize)]
pub struct Share {
    /// The virtio-fs tag.
    pub tag: Printable,
    /// The directory on the host.
    pub directory: Printable,
}

/// A disk image.
#[derive(Debug, Serialize)]
pub struct Image {
    /// Its path in the VM directory.
    pub entry: Printable,
    /// The file on the host.
    pub path: Printable,
}

impl VmDetails {
    /// Asks the catalog, the VM's package, systemd and the journal about the VM called `name`.
    pub fn of(installed: &Installed, name: &VmName) -> Self {
        let catalog = installed.catalog.as_ref();
        let vm = catalog.and_then(|catalog| catalog.find(name));
        let (status, unit) = VmStatus::of_vm(installed, name);
        let UnitStatus { failed, since, memory_bytes, cpu_ns, .. } = unit;
        Self {
            directory: vm.map(|vm| vm.directory.clone()),
            problems: vm.map(CatalogVm::problems).unwrap_or_default().to_vec(),
            since: failed.as_ref().map_or(since, |failed| failed.since),
            failed_unit: failed.map(|failed| Printable::new(failed.unit)),
            memory_used: memory_bytes,
            cpu_used_ns: cpu_ns,
            machine: Machine::of(installed, name),
            log: journal::last_of_guest(name, LOG_LINES).unwrap_or_default(),
            status,
        }
    }
}

impl Machine {
    fn of(installed: &Installed, name: &VmName) -> Option<Self> {
        // Root reads it, so only root may have put it there.
        let manifest = trust::resolve(&installed.package(name).join(MANIFEST)).ok()?;
        let plan = Plan::from_manifest(&std::fs::read_to_string(manifest).ok()?).ok()?;
        let links = plan.interfaces.into_iter().map(|interface| Link {
            provider: interface.provider,
            id: interface.link,
            ipv4: interface.ipv4,
            mac: interface.mac.to_string(),
        });
        let shares = plan.shares.iter();
        let shares = shares
            .map(|share| Share { tag: Printable::new(&share.tag), directory: Printable::new(&share.source) });
        let images = plan.images.iter();
        let images = images
            .map(|image| Image { entry: Printable::new(&image.entry), path: Printable::new(&image.path) });
        Some(Self {
            accelerator: plan.accelerator,
            memory_mib: plan.memory_mib,
            vcpus: plan.vcpus,
            links: links.collect(),
            uplink: plan.uplink.as_ref().map(Uplink::of),
            shares: shares.collect(),
            images: images.collect(),
            pci_devices: plan.pci_devices.iter().map(ToString::to_string).collect(),
        })
    }
}
