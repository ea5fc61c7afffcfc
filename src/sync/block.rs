// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *block*: no VM runs without its network providers.

use std::collections::{BTreeMap, BTreeSet};

use super::round::Round;
use crate::base::name::VmName;
use crate::base::problem::Problem;
use crate::link::graph;
use crate::state::catalog::{CatalogProblem, VmState};

impl Round<'_> {
    /// Takes out the VMs that cannot run because of the VMs that provide their networks.
    pub(super) fn block(&mut self) {
        let mut broken = BTreeSet::new();
        let mut providers: BTreeMap<VmName, Vec<VmName>> = BTreeMap::new();
        for vm in &self.vms {
            match &vm.state {
                VmState::Runnable(runnable) => {
                    let of_vm = runnable.links.iter().map(|link| link.provider.clone());
                    providers.insert(vm.name.clone(), of_vm.collect());
                }
                VmState::Broken { .. } | VmState::Unavailable { .. } => {
                    broken.insert(vm.name.clone());
                }
                VmState::Blocked { .. } | VmState::Shadowed { .. } => {}
            }
        }
        let blocked = graph::blocked(&providers, &broken);
        for vm in self.vms.iter_mut().filter(|vm| matches!(vm.state, VmState::Runnable(_))) {
            let Some(reasons) = blocked.get(&vm.name) else { continue };
            let Some(built) = self.built.remove(&vm.name) else { continue };
            let remedy = "provide that VM, or remove its entry from providers/net";
            let problem =
                |reason: &graph::Blocked| Problem::error(&built.names_providers, reason.to_string(), remedy);
            let found: Vec<_> = reasons.iter().map(problem).collect();
            let providers = providers.remove(&vm.name).unwrap_or_default();
            vm.state = VmState::Blocked { problems: CatalogProblem::errors(&found), providers };
            self.problems.extend(found);
        }
    }
}
