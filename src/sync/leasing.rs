// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VM gets which user id and which links.
//!
//! What was leased once stays; what an administrator declares comes before what
//! is derived, so that it is given to nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::base::name::{VmId, VmName};
use crate::base::problem::Problems;
use crate::config::Config;
use crate::directory::definition::Definition;
use crate::link::id::LinkId;
use crate::state::catalog::{Catalog, CatalogLease, CatalogLink};
use crate::state::leases::{DeclaredLink, Leases};

/// The leases of one run of `sync`, and what is declared.
pub(super) struct Leasing<'a> {
    config: &'a Config,
    /// User ids that somebody else has.
    taken_uids: BTreeSet<u32>,
    /// Link ids that are declared, and so nobody else's.
    reserved_links: BTreeSet<LinkId>,
    /// Declared links that cannot have their id, and who has it.
    refused_links: Vec<(DeclaredLink, VmId, VmName)>,
    /// VMs that cannot have the user id that is declared, and who has it.
    refused_uids: BTreeMap<VmId, Refused>,
    /// VMs for which the user id of an account of this host is declared.
    refused_accounts: BTreeMap<VmId, u32>,
    leases: Leases,
}

/// Why a VM cannot have a user id.
struct Refused {
    uid: u32,
    other: VmId,
    /// Whether the other only runs with it, and has another one now.
    runs: bool,
}

impl<'a> Leasing<'a> {
    pub fn new(
        config: &'a Config,
        mut leases: Leases,
        before: Option<&Catalog>,
        taken_uids: &BTreeSet<u32>,
        running_uids: &BTreeMap<u32, VmId>,
    ) -> Self {
        for (vm, runnable) in before.iter().flat_map(|catalog| catalog.known()) {
            let links = runnable.links.iter().filter_map(|l| Some((l.provider.clone(), l.id.parse().ok()?)));
            leases.adopt(&vm.id(), runnable.uid, links);
        }
        let declared: Vec<_> = config
            .declared_links()
            .map(|(client, provider, id)| DeclaredLink { client, provider: provider.clone(), id })
            .collect();
        let refused_links = leases.declare_links(&declared);
        let reserved_links = declared.iter().map(|link| link.id).collect();
        let (accounts, mut taken_uids) = (taken_uids, taken_uids.clone());
        let mut refused_accounts = BTreeMap::new();
        let mut refused_uids = BTreeMap::new();
        for (vm, uid) in config.declared_uids() {
            taken_uids.insert(uid);
            let runs = running_uids.get(&uid).filter(|other| **other != vm).cloned();
            if accounts.contains(&uid) {
                refused_accounts.insert(vm, uid);
            } else if let Some(other) = runs {
                refused_uids.insert(vm, Refused { uid, other, runs: true });
            } else if let Err(other) = leases.declare_uid(&vm, uid) {
                refused_uids.insert(vm, Refused { uid, other, runs: false });
            }
        }
        // Nobody becomes the user that another still runs as.
        taken_uids.extend(running_uids.keys());
        Self { config, taken_uids, reserved_links, refused_links, refused_uids, refused_accounts, leases }
    }

    /// The user id of a VM.
    pub fn uid(&mut self, id: &VmId, shown: &Path, problems: &mut Problems) -> Option<u32> {
        if let Some(Refused { uid, other, runs }) = self.refused_uids.get(id) {
            let remedy = match runs {
                true => format!("stop it, then sync: microvm-spectrum stop {}", other.name),
                false => format!("choose another, or let go of it: microvm-spectrum forget {other}"),
            };
            problems.error(shown, format!("cannot have the user id {uid}, which {other} has"), remedy);
            return None;
        }
        if let Some(uid) = self.refused_accounts.get(id) {
            problems.error(
                shown,
                format!("cannot have the user id {uid}, which a user or a group of this host has"),
                "choose one that nobody else has",
            );
            return None;
        }
        match self.leases.uid(id, &self.config.uids, &self.taken_uids) {
            Ok(uid) => Some(uid),
            Err(error) => {
                problems.error(
                    shown,
                    error.to_string(),
                    "widen [uids] in the configuration, or forget VMs that are gone: microvm-spectrum list \
                     --all shows them",
                );
                None
            }
        }
    }

    /// Whether another VM has this user id now.
    pub fn is_anothers(&self, id: &VmId, uid: u32) -> bool {
        self.leases.is_anothers(id, uid)
    }

    /// The ids of the links of a VM that was read from its directory: declared,
    /// leased, or leased now.
    pub fn links(
        &mut self,
        id: &VmId,
        definition: &Definition,
        declared: &BTreeMap<VmName, LinkId>,
        problems: &mut Problems,
    ) -> BTreeMap<VmName, LinkId> {
        let mut links = declared.clone();
        for provider in &definition.network_providers {
            let shown = definition.location.directory().join("providers/net").join(provider.as_str());
            if let Some(wanted) = declared.get(provider) {
                let of_this = |link: &DeclaredLink| link.client == *id && link.provider == *provider;
                if let Some((_, client, other)) = self.refused_links.iter().find(|(link, ..)| of_this(link)) {
                    problems.error(
                        shown,
                        format!(
                            "cannot have the link id {wanted}, which the link from {client} to {other} has"
                        ),
                        "declare another id",
                    );
                }
                continue;
            }
            match self.leases.link(id, provider, &self.reserved_links) {
                Ok(link) => drop(links.insert(provider.clone(), link)),
                Err(error) => problems.error(
                    shown,
                    error.to_string(),
                    "remove links that are no longer needed, and forget VMs that are gone: microvm-spectrum \
                     list --all shows them",
                ),
            }
        }
        links
    }

    /// Takes the id of a link that is in a package which was built elsewhere.
    pub fn built_link(
        &mut self,
        id: &VmId,
        provider: &VmName,
        link: LinkId,
        shown: &Path,
        problems: &mut Problems,
    ) {
        let Err((client, other)) = self.leases.declare_link(id, provider, link) else { return };
        problems.error(
            shown,
            format!(
                "has the id {link} for its link to {provider}, which the link from {client} to {other} has"
            ),
            format!(
                "build it with another id for that link (linkIds); or let go of this one, when that VM is \
                 gone: microvm-spectrum forget {client}"
            ),
        );
    }

    /// What VMs have leased that `catalog` does not have.
    pub fn of_gone(&self, catalog: &Catalog) -> Vec<CatalogLease> {
        let there: BTreeSet<_> = catalog.vms.iter().map(crate::state::catalog::CatalogVm::id).collect();
        let gone = self.leases.all().filter(|(vm, ..)| !there.contains(vm));
        gone.map(|(vm, uid, links)| {
            let links = links.map(|(provider, id)| CatalogLink {
                provider: provider.clone(),
                id: id.to_string(),
                ipv4: id.client_ipv4(),
            });
            CatalogLease { vm: vm.clone(), uid, links: links.collect() }
        })
        .collect()
    }

    /// All leases.
    pub fn into_leases(self) -> Leases {
        self.leases
    }
}
