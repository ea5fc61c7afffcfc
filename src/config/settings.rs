// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Settings: what the administrator decides per VM.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::base::name::VmName;
use crate::link::id::LinkId;
use crate::plan::pci::PciAddress;
use crate::plan::{Accelerator, HypervisorName};

/// What executes a guest's instructions, as an administrator chooses it.
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
    /// The accelerator, if it was chosen.
    pub fn chosen(self) -> Option<Accelerator> {
        match self {
            Self::Kvm => Some(Accelerator::Kvm),
            Self::Tcg => Some(Accelerator::Tcg),
            Self::Auto => None,
        }
    }
}

/// Settings of one VM, or the defaults of all; what is not set is taken from
/// the defaults, and then from the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The hypervisor that runs it.
    pub hypervisor: Option<HypervisorName>,
    /// The guest's memory, in MiB.
    pub memory: Option<u32>,
    /// The number of virtual processors.
    pub vcpus: Option<u16>,
    /// What executes the guest's instructions (QEMU only).
    pub accel: Option<AcceleratorChoice>,
    /// Whether it starts with the host.
    pub autostart: Option<bool>,
    /// Whether it is restarted by `sync` when it is no longer what it was
    /// started with.
    pub restart_if_changed: Option<bool>,
    /// For how many clients it can provide networks.
    pub link_ports: Option<u8>,
    /// The ids of its links, by provider; the others are derived.
    #[serde(default)]
    pub links: BTreeMap<VmName, LinkId>,
    /// The host's PCI devices that it gets.
    #[serde(default)]
    pub devices: Vec<PciAddress>,
    /// The user id that it runs as, instead of the next of the range.
    pub uid: Option<u32>,
    /// A runner package that was built elsewhere, an absolute path: the VM is of
    /// no source.
    pub runner: Option<PathBuf>,
}

impl Settings {
    /// These settings, with those that are not set taken from `defaults`.
    #[must_use]
    pub fn or(&self, defaults: &Self) -> Self {
        Self {
            hypervisor: self.hypervisor.or(defaults.hypervisor),
            memory: self.memory.or(defaults.memory),
            vcpus: self.vcpus.or(defaults.vcpus),
            accel: self.accel.or(defaults.accel),
            autostart: self.autostart.or(defaults.autostart),
            restart_if_changed: self.restart_if_changed.or(defaults.restart_if_changed),
            link_ports: self.link_ports.or(defaults.link_ports),
            links: self.links.clone(),
            devices: self.devices.clone(),
            uid: self.uid,
            runner: self.runner.clone(),
        }
    }

    /// What is set that a runner package decides by itself, by key.
    pub(super) fn of_a_definition(&self) -> impl Iterator<Item = &'static str> {
        [
            ("hypervisor", self.hypervisor.is_some()),
            ("memory", self.memory.is_some()),
            ("vcpus", self.vcpus.is_some()),
            ("accel", self.accel.is_some()),
            ("link-ports", self.link_ports.is_some()),
            ("links", !self.links.is_empty()),
            ("devices", !self.devices.is_empty()),
        ]
        .into_iter()
        .filter_map(|(key, set)| set.then_some(key))
    }
}
