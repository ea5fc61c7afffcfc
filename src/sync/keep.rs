// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *keep*: what still runs keeps its user and its place in the order of stops.

use std::collections::{BTreeMap, BTreeSet};

use super::round::Round;
use crate::base::name::VmId;
use crate::state::catalog::{Runnable, VmState};
use crate::state::started::Started;

impl Round<'_> {
    /// Notes what the VMs were that run although they could not be started now: without a
    /// drop-in, systemd would stop them as another user, and before their clients.
    pub(super) fn keep(&mut self) {
        let running: BTreeSet<VmId> = Started::all().into_iter().map(|started| started.vm).collect();
        let before: BTreeMap<VmId, &Runnable> = self
            .before
            .catalog
            .iter()
            .flat_map(|catalog| catalog.known())
            .map(|(vm, was)| (vm.id(), was))
            .collect();
        for vm in &mut self.vms {
            let id = vm.id();
            if let VmState::Broken { last, .. } | VmState::Blocked { last, .. } = &mut vm.state
                && running.contains(&id)
            {
                // No two VMs may have one user id in a catalog.
                let was = before.get(&id).filter(|was| !self.leasing.is_anothers(&id, was.uid));
                *last = was.map(|was| Runnable::clone(was));
            }
        }
    }
}
