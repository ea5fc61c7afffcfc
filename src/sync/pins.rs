// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What may differ between the hosts of a cluster, although a VM must have the same on each:
//! link ids, which are its addresses, and user ids.

use std::collections::BTreeMap;

use super::round::Round;
use crate::base::name::{VmId, VmName};
use crate::base::problem::Problem;
use crate::link::id::LinkId;
use crate::plan::Plan;
use crate::state::catalog::{CatalogVm, VmState};

const REMEDY: &str = "add what microvm-spectrum sync --print-pins prints to the configuration of every host";

/// File systems that several hosts mount at a time: their numbers (`statfs(2)`, and
/// `linux/magic.h`).
const SHARED: [u32; 11] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x00c3_6400, // Ceph
    0x0116_1970, // GFS2
    0x7461_636f, // OCFS2
    0x0102_1997, // 9P
    0x6573_5546, // FUSE, such as GlusterFS
    0x5346_414f, // AFS
    0x0bd0_0bd0, // Lustre
    0x1983_0326, // BeeGFS
];

/// What to pin of each VM.
#[derive(Debug, Default)]
pub struct Pins(BTreeMap<VmId, Pin>);

/// What to pin of one VM.
#[derive(Debug, Default)]
pub struct Pin {
    /// Its user id, if it has directories on storage that hosts share.
    uid: Option<u32>,
    /// The ids of links that other links could have, too, by provider.
    links: BTreeMap<VmName, LinkId>,
}

impl Pins {
    /// Notes that a VM has a shared directory on storage that several hosts mount.
    pub(super) fn of_shares(&mut self, vm: &VmId, plan: &Plan, uid: u32) {
        let is_shared = |directory: &str| {
            rustix::fs::statfs(directory).is_ok_and(|found| SHARED.contains(&(found.f_type as u32)))
        };
        if plan.shares.iter().any(|share| is_shared(&share.source)) {
            self.0.entry(vm.clone()).or_default().uid = Some(uid);
        }
    }

    /// Lines of the configuration.
    pub fn lines(&self) -> Vec<String> {
        let tables = self.0.iter().flat_map(|(vm, Pin { uid, links })| {
            let links: Vec<_> =
                links.iter().map(|(provider, id)| format!("\"{provider}\" = \"{id}\"")).collect();
            let links = (!links.is_empty()).then(|| format!("links = {{ {} }}", links.join(", ")));
            let uid = uid.map(|uid| format!("uid = {uid}"));
            std::iter::once(format!("[vm.\"{vm}\"]")).chain(uid).chain(links)
        });
        tables.collect()
    }
}

impl Round<'_> {
    /// Notes what to pin of the VMs that the cluster manages.
    pub(super) fn pin(&mut self) {
        let of_cluster = |vm: &&CatalogVm| matches!(&vm.state, VmState::Runnable(it) if it.cluster);
        if !self.vms.iter().any(|vm| of_cluster(&vm)) {
            return;
        }
        let colliding = self.leasing.colliding();
        for vm in self.vms.iter().filter(of_cluster) {
            let (id, VmState::Runnable(runnable)) = (vm.id(), &vm.state) else { continue };
            let mut notes = Vec::new();
            let mut note = |cause: String| notes.push(Problem::note(vm.directory.as_str(), cause, REMEDY));
            for link in &runnable.links {
                if colliding.contains(&link.id) && !self.leasing.is_declared(&id, &link.provider) {
                    let pin = self.pins.0.entry(id.clone()).or_default();
                    pin.links.insert(link.provider.clone(), link.id);
                    note(format!(
                        "has the link id {} for {}, which may be another on other hosts of the cluster, and so its address",
                        link.id, link.provider
                    ));
                }
            }
            if let Some(uid) = self.pins.0.get(&id).and_then(|pin| pin.uid) {
                note(format!(
                    "has the user id {uid}, which may be another on other hosts of the cluster that share its directories"
                ));
            }
            self.of_sources.add(&id.source, notes);
        }
    }
}
