// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The catalog: the single view of all sources.
//!
//! It has every VM of every source, with its state. `sync` writes it; the systemd
//! generator, `list` and the other commands read it, and no source.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::name::{SourceName, VmId, VmName};
use crate::base::printable::Printable;
use crate::base::problem::{Problem, Severity};
use crate::base::versioned::{self, DocumentError};
use crate::config::{PartUuid, SourceKind, may_be_a_vms};
use crate::directory::stamp::FileStamp;
use crate::link::id::LinkId;
use crate::plan::HypervisorName;
use crate::plan::pci::PciAddress;
use crate::plan::uplink::PortForward;
use crate::state::place::PackagePlace;

/// The version of the catalog that this program writes and reads.
pub const CATALOG_VERSION: u32 = 1;

/// All VMs of all sources, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "microvm-spectrum catalog", description = "All VMs of all sources, version 1.")]
pub struct Catalog {
    /// The version of this format.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Which generation of the catalog this is; each has a number of its own.
    pub generation: u64,
    /// The sources, in their order.
    pub sources: Vec<CatalogSource>,
    /// The VMs, in the order of their names, the one that runs before those it shadows.
    pub vms: Vec<CatalogVm>,
    /// The leases of removed VMs.
    pub leases: Vec<CatalogLease>,
}

/// A place where VM directories live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogSource {
    /// Its name.
    pub name: SourceName,
    /// What kind of place it is.
    pub kind: SourceKind,
    /// The directory that holds the VM directories, on this host.
    pub directory: PathBuf,
    /// Its partition, where the configuration names that: systemd mounts it when it appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partuuid: Option<PartUuid>,
    /// Why it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<CatalogProblem>,
}

/// What a VM keeps until it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogLease {
    /// The VM, `SOURCE/NAME`.
    #[schemars(with = "String")]
    pub vm: VmId,
    /// Its user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its links.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<CatalogLink>,
}

/// One VM of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogVm {
    /// Its name.
    pub name: VmName,
    /// The source that it comes from.
    pub source: SourceName,
    /// Its directory on this host, in printable form.
    pub directory: Printable,
    /// What can be done with it.
    #[serde(flatten)]
    pub state: VmState,
}

/// What can be done with a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum VmState {
    /// It can run.
    Runnable(Runnable),
    /// Its definition, or the definition with its settings, has errors.
    Broken {
        /// What is wrong.
        problems: Vec<CatalogProblem>,
        /// What it was when it could run, if it still runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<Runnable>,
    },
    /// It could run, but a VM that provides its network cannot.
    Blocked {
        /// Which, and why.
        problems: Vec<CatalogProblem>,
        /// The VMs that should provide its networks.
        providers: Vec<VmName>,
        /// What it was when it could run, if it still runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<Runnable>,
    },
    /// Its source cannot be read now.
    Unavailable {
        /// Why.
        problems: Vec<CatalogProblem>,
        /// What it was when its source could be read, unless another VM has its user id now.
        last: Option<Runnable>,
    },
    /// An earlier source has a VM of the same name.
    Shadowed {
        /// That source.
        by: SourceName,
    },
}

/// What systemd and people need to know of a VM that can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Runnable {
    /// The user id that it runs as, leased to it; also its group id.
    pub uid: u32,
    /// The hypervisor that runs it.
    pub hypervisor: HypervisorName,
    /// Its runner package: a name in the state directory, or an absolute path, such
    /// as one in the Nix store.
    #[schemars(with = "String")]
    pub package: PackagePlace,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether `sync` restarts it when it is stale.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart_if_changed: bool,
    /// Whether the cluster decides which host runs it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
    /// Its links to network providers.
    pub links: Vec<CatalogLink>,
    /// The host's PCI devices that it gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<PciAddress>,
    /// Its connection to the host's network, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<CatalogUplink>,
    /// Where it shows its windows, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wayland: Option<CatalogWayland>,
    /// Its kernel and its images, in this order, when `sync` looked at them; then the
    /// manifest of a package that was built elsewhere, which may be replaced there.
    pub files: Vec<FileStamp>,
}

/// The connection of a VM to the host's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogUplink {
    /// The ports of the host that lead to the guest.
    pub ports: Vec<PortForward>,
}

/// Where a VM shows its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogWayland {
    /// The user id of the session; without one, the guest runs and shows no windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Whether the session's compositor may lack security contexts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_security_context: bool,
}

/// A link to a network provider, as the client has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogLink {
    /// The VM that provides the network.
    pub provider: VmName,
    /// The link's id, four hexadecimal digits.
    #[schemars(with = "String")]
    pub id: LinkId,
    /// The IPv4 address that the guest takes.
    pub ipv4: Ipv4Addr,
}

impl CatalogLink {
    /// The link with this id.
    pub fn new(provider: &VmName, id: LinkId) -> Self {
        Self { provider: provider.clone(), id, ipv4: id.client_ipv4() }
    }
}

/// A problem, in printable form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CatalogProblem {
    /// The file or directory that has it.
    pub path: Printable,
    /// What is wrong with it.
    pub cause: Printable,
    /// What to do about it.
    pub remedy: Printable,
}

impl VmState {
    /// The state's name, as the catalog has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Runnable(_) => "runnable",
            Self::Broken { .. } => "broken",
            Self::Blocked { .. } => "blocked",
            Self::Unavailable { .. } => "unavailable",
            Self::Shadowed { .. } => "shadowed",
        }
    }
}

impl CatalogProblem {
    /// The errors among `problems`.
    pub fn errors(problems: &[Problem]) -> Vec<Self> {
        problems.iter().filter(|problem| problem.severity == Severity::Error).map(Self::from).collect()
    }
}

impl From<&Problem> for CatalogProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            path: Printable::new(&problem.path),
            cause: Printable::new(&problem.cause),
            remedy: Printable::new(&problem.remedy),
        }
    }
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is none, or it cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It has another format.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A VM would run as root, or with the name or user id of another.
    #[error("has a VM {0} whose name or user id cannot be its own")]
    NotItsOwn(VmName),
}

impl Catalog {
    /// Reads the catalog in the file `path`.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn read(path: &Path) -> Result<Self, CatalogError> {
        let catalog: Self = versioned::parse(&std::fs::read_to_string(path)?, "a catalog", CATALOG_VERSION)?;
        let (mut names, mut uids) = (BTreeSet::new(), BTreeSet::new());
        for (vm, Runnable { uid, .. }) in catalog.known() {
            if !may_be_a_vms(*uid) || !names.insert(&vm.name) || !uids.insert(uid) {
                return Err(CatalogError::NotItsOwn(vm.name.clone()));
            }
        }
        Ok(catalog)
    }

    /// Whether it says the same as another, apart from the generation.
    pub fn is_like(&self, other: &Self) -> bool {
        self.sources == other.sources && self.vms == other.vms && self.leases == other.leases
    }

    /// The VMs that can run.
    pub fn runnable(&self) -> impl Iterator<Item = (&CatalogVm, &Runnable)> {
        self.vms.iter().filter_map(|vm| match &vm.state {
            VmState::Runnable(runnable) => Some((vm, runnable)),
            _ => None,
        })
    }

    /// The VMs that can run, and those that may still run although they cannot be started
    /// now.
    pub fn known(&self) -> impl Iterator<Item = (&CatalogVm, &Runnable)> {
        self.vms.iter().filter_map(|vm| match &vm.state {
            VmState::Runnable(runnable)
            | VmState::Broken { last: Some(runnable), .. }
            | VmState::Blocked { last: Some(runnable), .. }
            | VmState::Unavailable { last: Some(runnable), .. } => Some((vm, runnable)),
            _ => None,
        })
    }

    /// The VM of this name: the one that is not shadowed.
    pub fn find(&self, name: &VmName) -> Option<&CatalogVm> {
        self.vms.iter().find(|vm| vm.name == *name && !matches!(vm.state, VmState::Shadowed { .. }))
    }
}

impl CatalogVm {
    /// What is wrong with it.
    pub fn problems(&self) -> &[CatalogProblem] {
        match &self.state {
            VmState::Broken { problems, .. }
            | VmState::Blocked { problems, .. }
            | VmState::Unavailable { problems, .. } => problems,
            VmState::Runnable(_) | VmState::Shadowed { .. } => &[],
        }
    }

    /// The VM with its source.
    pub fn id(&self) -> VmId {
        VmId { source: self.source.clone(), name: self.name.clone() }
    }
}
