// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Settings: what the administrator decides for each VM.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::base::name::VmName;
use crate::link::id::LinkId;
use crate::plan::guest_owner::{self, GuestOwner, GuestOwners};
use crate::plan::pci::PciAddress;
use crate::plan::uplink::PortForward;
use crate::plan::{Accelerator, HypervisorName};

/// What executes a guest's instructions, as the administrator chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM.
    Kvm,
    /// QEMU's TCG.
    Tcg,
    /// KVM when a short probe shows that it works, else TCG.
    Auto,
}

impl AcceleratorChoice {
    /// The chosen accelerator; none for a probe.
    pub fn chosen(self) -> Option<Accelerator> {
        match self {
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Tcg => Some(Accelerator::Tcg),
            Self::Auto => None,
        }
    }
}

/// Which compositors may show a VM's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompositorChoice {
    /// Those that know which VM a window is from, and withhold their privileged protocols from it
    /// (`wp_security_context_v1`).
    SecurityContext,
    /// Others, too, which take the VM for a program of the user's own.
    WithoutSecurityContext,
}

/// Settings of one shared directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShareSettings {
    /// The guest's user that it belongs to.
    #[serde(default, deserialize_with = "guest_id")]
    pub guest_uid: Option<u32>,
    /// The guest's group that it belongs to.
    #[serde(default, deserialize_with = "guest_id")]
    pub guest_gid: Option<u32>,
}

/// Settings of one VM, or the defaults of all. What a VM does not set comes from the
/// defaults, and then from the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The hypervisor that runs it.
    pub hypervisor: Option<HypervisorName>,
    /// The guest's memory, in MiB.
    #[serde(default, deserialize_with = "mebibytes")]
    pub memory: Option<u32>,
    /// The number of virtual processors.
    #[serde(default, deserialize_with = "number")]
    pub vcpus: Option<u16>,
    /// What executes the guest's instructions (QEMU only).
    pub accel: Option<AcceleratorChoice>,
    /// Whether it starts with the host.
    pub autostart: Option<bool>,
    /// Whether `sync` restarts it when it is stale.
    pub restart_if_changed: Option<bool>,
    /// Whether the cluster decides which host runs it.
    pub cluster: Option<bool>,
    /// For how many clients it can provide networks.
    #[serde(default, deserialize_with = "number")]
    pub link_ports: Option<u8>,
    /// The address space for the buffers of its windows, in MiB, a power of two.
    #[serde(default, deserialize_with = "mebibytes")]
    pub wayland_memory: Option<u32>,
    /// The ids of its links, by provider; the program derives the others.
    #[serde(default)]
    pub links: BTreeMap<VmName, LinkId>,
    /// The PCI devices of the host that it gets.
    #[serde(default)]
    pub devices: Vec<PciAddress>,
    /// Whether it is connected to the host's network.
    pub uplink: Option<bool>,
    /// The ports of the host that lead to its guest.
    #[serde(default)]
    pub ports: Vec<PortForward>,
    /// The guest's user that its shared directories belong to.
    #[serde(default, deserialize_with = "guest_id")]
    pub guest_uid: Option<u32>,
    /// The guest's group that its shared directories belong to.
    #[serde(default, deserialize_with = "guest_id")]
    pub guest_gid: Option<u32>,
    /// Settings of its shared directories, by tag.
    #[serde(default)]
    pub shares: BTreeMap<String, ShareSettings>,
    /// The user id that it runs as, instead of the next one of the range.
    #[serde(default, deserialize_with = "number")]
    pub uid: Option<u32>,
    /// The name of the user whose session shows its windows.
    pub wayland_user: Option<String>,
    /// Which compositors may show its windows.
    pub wayland: Option<CompositorChoice>,
    /// The absolute path of a runner package that was built elsewhere. The VM belongs
    /// to no source then.
    pub runner: Option<PathBuf>,
}

impl Settings {
    /// These settings, and those of `defaults` for what they do not set.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            hypervisor: self.hypervisor.or(defaults.hypervisor),
            memory: self.memory.or(defaults.memory),
            vcpus: self.vcpus.or(defaults.vcpus),
            accel: self.accel.or(defaults.accel),
            autostart: self.autostart.or(defaults.autostart),
            restart_if_changed: self.restart_if_changed.or(defaults.restart_if_changed),
            cluster: self.cluster.or(defaults.cluster),
            link_ports: self.link_ports.or(defaults.link_ports),
            wayland_memory: self.wayland_memory.or(defaults.wayland_memory),
            links: self.links.clone(),
            devices: self.devices.clone(),
            uplink: self.uplink,
            ports: self.ports.clone(),
            guest_uid: self.guest_uid.or(defaults.guest_uid),
            guest_gid: self.guest_gid.or(defaults.guest_gid),
            shares: self.shares.clone(),
            uid: self.uid,
            wayland_user: self.wayland_user.clone().or_else(|| defaults.wayland_user.clone()),
            wayland: self.wayland.or(defaults.wayland),
            runner: self.runner.clone(),
        }
    }

    /// Whose the shared directories are in the guest.
    pub fn guest_owners(&self) -> GuestOwners {
        let own = |share: &ShareSettings| GuestOwner { uid: share.guest_uid, gid: share.guest_gid };
        GuestOwners {
            of_all: GuestOwner { uid: self.guest_uid, gid: self.guest_gid },
            of_tags: self.shares.iter().map(|(tag, share)| (tag.clone(), own(share))).collect(),
        }
    }

    /// The keys that are set although a runner package has them built in.
    pub(super) fn of_a_definition(&self) -> impl Iterator<Item = &'static str> {
        [
            ("hypervisor", self.hypervisor.is_some()),
            ("memory", self.memory.is_some()),
            ("vcpus", self.vcpus.is_some()),
            ("accel", self.accel.is_some()),
            ("link-ports", self.link_ports.is_some()),
            ("wayland-memory", self.wayland_memory.is_some()),
            ("links", !self.links.is_empty()),
            ("devices", !self.devices.is_empty()),
            ("uplink", self.uplink.is_some()),
            ("ports", !self.ports.is_empty()),
            ("guest-uid", self.guest_uid.is_some()),
            ("guest-gid", self.guest_gid.is_some()),
            ("shares", !self.shares.is_empty()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
    }
}

/// An integer. Errors describe it in words, not by its type in Rust.
struct Number<T>(&'static str, PhantomData<T>);

/// For unsigned integers of 8 to 64 bits.
impl<T: TryFrom<i64>> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from 0 to {}", self.0, u64::MAX >> (u64::BITS - 8 * size_of::<T>() as u32))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

fn mebibytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_i64(Number("a whole number of MiB", PhantomData)).map(Some)
}

fn number<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_i64(Number("a whole number", PhantomData)).map(Some)
}

fn guest_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = deserializer.deserialize_i64(Number::<u32>("a guest's id", PhantomData))?;
    guest_owner::guest_id(number.into()).map(Some).map_err(D::Error::custom)
}

pub(super) fn uid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_i64(Number("a user id", PhantomData))
}
