// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The plan of one VM: everything that running it takes.
//!
//! A runner package carries it as its manifest, `share/microvm-spectrum/manifest.json`,
//! whose schema is `docs/manifest.schema.json`. [`planning`](crate::package::planning)
//! makes it; all stages from the [`hypervisor`](crate::hypervisor) on may use it.

pub mod guest_owner;
pub mod pci;
pub mod runtime;
pub mod uplink;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::problem::Problem;
use crate::base::tool::{self, Tool};
use crate::base::versioned::{self, DocumentError};
use crate::directory::boundary::{Boundary, ResolveError, Walker};
use crate::directory::stamp::FileStamp;
use crate::link::id::{InterfaceName, LinkId, MacAddress};
use crate::plan::pci::PciAddress;
use crate::plan::uplink::UplinkPlan;

/// The version of the manifest that this program writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

/// Which hypervisor runs a VM.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum HypervisorName {
    /// Cloud Hypervisor, Spectrum's own.
    CloudHypervisor,
    /// QEMU.
    Qemu,
}

impl HypervisorName {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CloudHypervisor, Self::Qemu];

    /// The name that users and microvm.nix know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for HypervisorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, with the kernel's KVM.
    Kvm,
    /// QEMU's Tiny Code Generator, which works everywhere and is slow.
    Tcg,
}

/// Everything that running one VM takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "microvm-spectrum manifest", description = "The plan of one virtual machine, version 1.")]
pub struct Plan {
    /// The version of this format.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// The VM's name.
    pub name: VmName,
    /// The architecture of host and guest.
    pub architecture: Architecture,
    /// The hypervisor that runs it.
    pub hypervisor: HypervisorName,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// The guest's memory, in MiB.
    pub memory_mib: u32,
    /// Whether guest memory is shared with other processes (virtio-fs and vhost-user need it).
    pub shared_memory: bool,
    /// The number of virtual processors.
    pub vcpus: u16,
    /// Where the definition is, and where its links may lead.
    pub definition: DefinitionPlace,
    /// The kernel.
    pub kernel: FilePlan,
    /// The kernel's command line.
    pub kernel_command_line: String,
    /// The disk images, in the order in which the guest sees them.
    pub images: Vec<FilePlan>,
    /// The shared directories.
    pub shares: Vec<SharePlan>,
    /// The network interfaces of links to providers.
    pub interfaces: Vec<InterfacePlan>,
    /// The connection to the host's network, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkPlan>,
    /// How many interfaces of links can be plugged in while the VM runs: as many as it
    /// can have clients (QEMU needs a port for each).
    pub link_ports: u8,
    /// The host's PCI devices that the VM gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci_devices: Vec<PciAddress>,
    /// The windows that the guest shows on a Wayland compositor of the host, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wayland: Option<WaylandPlan>,
    /// The paths of the programs that running the VM takes, by their names.
    #[serde(deserialize_with = "tool::read_paths")]
    pub tools: BTreeMap<Tool, PathBuf>,
}

/// Where a definition is. The program follows its links again at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefinitionPlace {
    /// The directory's path beneath the user partition, or empty.
    pub directory: PathBuf,
    /// The user partition, and where else links may lead.
    pub boundary: Boundary,
}

/// A file of the definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilePlan {
    /// Its path within the VM directory, which the program follows at each start.
    pub entry: String,
    /// The file that it led to when the plan was made, free of links.
    pub path: String,
}

/// A shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharePlan {
    /// The virtio-fs tag.
    pub tag: String,
    /// Its link's path within the VM directory, which the program follows at each start.
    pub entry: String,
    /// The directory that the link led to when the plan was made, free of links.
    pub source: String,
    /// virtiofsd's socket, relative to the directory where the VM runs.
    pub socket: String,
    /// The guest's user that owns what virtiofsd's user owns on the host; left out for root.
    #[serde(default, skip_serializing_if = "is_root")]
    pub guest_uid: u32,
    /// The guest's group that owns what virtiofsd's group owns on the host; left out for root's.
    #[serde(default, skip_serializing_if = "is_root")]
    pub guest_gid: u32,
}

fn is_root(id: &u32) -> bool {
    *id == 0
}

/// The windows of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaylandPlan {
    /// The address space for the buffers of windows in the guest, in MiB, a power of two.
    pub memory_mib: u32,
}

/// The interface of a link to a network provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InterfacePlan {
    /// The VM that provides the network.
    pub provider: VmName,
    /// The link's id, four hexadecimal digits.
    #[schemars(with = "String")]
    pub link: LinkId,
    /// The host's tap interface.
    #[schemars(with = "String")]
    pub tap: InterfaceName,
    /// The MAC address that the guest sees.
    #[schemars(with = "String")]
    pub mac: MacAddress,
    /// The IPv4 address that the guest takes.
    pub ipv4: std::net::Ipv4Addr,
}

impl Plan {
    /// The path of a program, if the VM needs it.
    pub fn tool(&self, tool: Tool) -> Option<&Path> {
        self.tools.get(&tool).map(PathBuf::as_path)
    }

    /// The path beneath the user partition of an entry of the VM directory.
    pub fn relative(&self, entry: &str) -> PathBuf {
        self.definition.directory.join(entry)
    }

    /// Follows the links of a file of the definition and opens what they lead to, for
    /// reading.
    ///
    /// # Errors
    /// When a link leads where it may not, or to what this user cannot open.
    pub fn open_file(&self, file: &FilePlan) -> Result<File, Problem> {
        self.open_file_by(&self.walker(), file)
    }

    /// Like [`Plan::open_file`], with a [`Plan::walker`] for several files.
    ///
    /// # Errors
    /// See [`Plan::open_file`].
    pub fn open_file_by(&self, walker: &Walker, file: &FilePlan) -> Result<File, Problem> {
        let relative = self.relative(&file.entry);
        let shown = self.definition.boundary.user_partition.join(&relative);
        let found = walker.resolve(&relative).map_err(|e| e.problem(&shown))?;
        found.open_file().map_err(|error| {
            Problem::error(
                &shown,
                format!("cannot be opened: {error}"),
                "make it a regular file that this user may read",
            )
        })
    }

    /// Walks to the files of the definition, to open them.
    pub fn walker(&self) -> Walker {
        Walker::only_to_open(self.definition.boundary.clone())
    }

    /// The stamps of the kernel and the images, in this order, as they are now.
    ///
    /// # Errors
    /// When a link leads where it may not, or to nothing.
    pub fn stamps(&self) -> Result<Vec<FileStamp>, ResolveError> {
        let walker = self.walker();
        let files = std::iter::once(&self.kernel).chain(&self.images);
        files
            .map(|file| {
                let found = walker.resolve(&self.relative(&file.entry))?;
                Ok(FileStamp::new(&file.entry, &found.stat))
            })
            .collect()
    }

    /// The manifest's text: JSON, ending in a line feed.
    pub fn to_manifest(&self) -> String {
        // A plan has only string keys and no floating-point numbers, so this cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When the text is not a manifest of [`MANIFEST_VERSION`].
    pub fn from_manifest(text: &str) -> Result<Self, DocumentError> {
        versioned::parse(text, "a manifest", MANIFEST_VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_may_name_a_program_that_a_former_version_needed() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/checks/golden/packages/builtin/cloud-hypervisor/share/microvm-spectrum/manifest.json"
        ));
        let with =
            |tool: &str| text.replacen("\"tools\": {", &format!("\"tools\": {{\"{tool}\": \"/x\","), 1);
        assert_ne!(with("ch-remote"), text);
        let read = Plan::from_manifest(&with("ch-remote")).unwrap();
        assert_eq!(read, Plan::from_manifest(text).unwrap());
        assert!(Plan::from_manifest(&with("other")).is_err());
    }
}
