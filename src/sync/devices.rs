// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *devices*: no two VMs get the same PCI device or port of the host.

use std::collections::BTreeMap;
use std::path::Path;

use super::round::Round;
use crate::base::name::VmId;
use crate::base::problem::Problem;
use crate::plan::pci::{self, PciAddress};
use crate::plan::uplink::PortForward;
use crate::state::catalog::{CatalogProblem, Runnable, VmState};

impl Round<'_> {
    /// Takes out VMs that list a device or a port of an earlier VM. The configuration has no such
    /// lists, but packages that were built elsewhere may.
    pub(super) fn devices(&mut self) {
        let mut holders: BTreeMap<PciAddress, VmId> = BTreeMap::new();
        let mut ports: Vec<(PortForward, VmId)> = Vec::new();
        for vm in &mut self.vms {
            let id = vm.id();
            let VmState::Runnable(runnable) = &vm.state else { continue };
            let taken = runnable.devices.iter().find_map(|device| Some((*device, holders.get(device)?)));
            let taken = taken.map(|(device, other)| {
                let path = pci::directory(Path::new(pci::SYS), device);
                Problem::error(path, format!("is both for {other} and for {id}"), "give it to one of them")
            });
            let Some(problem) = taken.or_else(|| port_problem(runnable, &id, &ports)) else {
                holders.extend(runnable.devices.iter().map(|device| (*device, id.clone())));
                ports.extend(forwards(runnable).map(|port| (*port, id.clone())));
                continue;
            };
            vm.state = VmState::Broken { problems: vec![CatalogProblem::from(&problem)], last: None };
            self.problems.push(problem);
            self.built.remove(&id.name);
        }
    }
}

fn forwards(runnable: &Runnable) -> impl Iterator<Item = &PortForward> {
    runnable.uplink.iter().flat_map(|uplink| &uplink.ports)
}

fn port_problem(runnable: &Runnable, id: &VmId, taken: &[(PortForward, VmId)]) -> Option<Problem> {
    let find = |port: &PortForward| taken.iter().find(|(other, _)| other.collides(port));
    let (port, (other, of)) = forwards(runnable).find_map(|port| Some((port, find(port)?)))?;
    let cause = format!("forwards a port of the host that {of} forwards, too: {port} and {other}");
    Some(Problem::error(id.to_string(), cause, "choose another port or address of the host for one of them"))
}
