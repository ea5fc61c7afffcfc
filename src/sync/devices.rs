// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *devices*: no two VMs get the same PCI device.

use std::collections::BTreeMap;
use std::path::Path;

use super::round::Round;
use crate::base::name::VmId;
use crate::base::problem::Problem;
use crate::plan::pci::{self, PciAddress};
use crate::state::catalog::{CatalogProblem, VmState};

impl Round<'_> {
    /// Takes out VMs that list a device of an earlier VM. The configuration has no such
    /// lists, but packages that were built elsewhere may.
    pub(super) fn devices(&mut self) {
        let mut holders: BTreeMap<PciAddress, VmId> = BTreeMap::new();
        for vm in &mut self.vms {
            let id = vm.id();
            let VmState::Runnable(runnable) = &vm.state else { continue };
            let taken = runnable.devices.iter().find_map(|device| Some((*device, holders.get(device)?)));
            let Some((device, other)) = taken else {
                holders.extend(runnable.devices.iter().map(|device| (*device, id.clone())));
                continue;
            };
            let problem = Problem::error(
                pci::directory(Path::new(pci::SYS), device),
                format!("is both for {other} and for {id}"),
                "give it to one of them",
            );
            vm.state = VmState::Broken { problems: vec![CatalogProblem::from(&problem)], last: None };
            self.problems.push(problem);
            self.built.remove(&id.name);
        }
    }
}
