// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VM gets which user id and which link ids.
//!
//! A leased id stays. The ids that the administrator declares come before those that
//! the program derives, so that no other VM gets them.

use std::collections::{BTreeMap, BTreeSet};

use super::prepare::Candidate;
use super::round::Before;
use crate::base::name::{VmId, VmName};
use crate::config::Config;
use crate::directory::definition::Definition;
use crate::link::id::LinkId;
use crate::state::catalog::{CatalogLease, CatalogLink, CatalogVm};
use crate::state::leases::{DeclaredLink, Leases};
use crate::state::started::Started;
use crate::system::accounts;

/// The leases in one round, and what is declared.
pub(super) struct Leasing<'a> {
    config: &'a Config,
    /// User ids that are not free: of accounts of this host, declared, or in use.
    taken_uids: BTreeSet<u32>,
    /// Declared link ids.
    reserved_links: BTreeSet<LinkId>,
    /// Declared links that cannot have their id, with the client and the provider of
    /// the link that has it.
    refused_links: Vec<(DeclaredLink, VmId, VmName)>,
    /// VMs that cannot have their declared user id.
    refused_uids: BTreeMap<VmId, (u32, Holder)>,
    leases: Leases,
}

/// Who has a user id.
enum Holder {
    /// A user or group of this host.
    Account,
    /// A VM that it is leased to.
    Leased(VmId),
    /// A VM that still runs as this user, although another id is leased to it now.
    Running(VmId),
}

impl<'a> Leasing<'a> {
    /// Leases what the configuration declares.
    pub fn new(config: &'a Config, before: &Before) -> Self {
        let mut leases = before.leases.clone();
        for (vm, runnable) in before.catalog.iter().flat_map(|catalog| catalog.known()) {
            let links = runnable.links.iter().map(|link| (link.provider.clone(), link.id));
            leases.adopt(&vm.id(), runnable.uid, links);
        }
        let declared: Vec<_> = config
            .declared_links()
            .map(|(client, provider, id)| DeclaredLink { client, provider: provider.clone(), id })
            .collect();
        let refused_links = leases.declare_links(&declared);
        let accounts = accounts::ids_in_use();
        let running: BTreeMap<u32, VmId> =
            Started::all().into_iter().map(|started| (started.uid, started.vm)).collect();
        let mut refused_uids = BTreeMap::new();
        for (vm, uid) in config.declared_uids() {
            let holder = if accounts.contains(&uid) {
                Some(Holder::Account)
            } else if let Some(other) = running.get(&uid).filter(|other| **other != vm) {
                Some(Holder::Running(other.clone()))
            } else {
                leases.declare_uid(&vm, uid).err().map(Holder::Leased)
            };
            refused_uids.extend(holder.map(|holder| (vm, (uid, holder))));
        }
        let declared_uids = config.declared_uids().map(|(_, uid)| uid);
        let taken_uids = accounts.into_iter().chain(declared_uids).chain(running.into_keys()).collect();
        let reserved_links = declared.iter().map(|link| link.id).collect();
        Self { config, taken_uids, reserved_links, refused_links, refused_uids, leases }
    }

    /// The user id of a VM.
    pub fn uid(&mut self, vm: &mut Candidate) -> Option<u32> {
        if let Some((uid, holder)) = self.refused_uids.get(&vm.id) {
            let account = "a user or a group of this host".to_owned();
            let (holder, remedy) = match holder {
                Holder::Account => (account, "choose a free one".to_owned()),
                Holder::Leased(other) => (
                    other.to_string(),
                    format!("choose another, or release it: microvm-spectrum forget {other}"),
                ),
                Holder::Running(other) => (
                    other.to_string(),
                    format!("stop that VM, then sync: microvm-spectrum stop {}", other.name),
                ),
            };
            vm.error(format!("cannot have the user id {uid}, which {holder} has"), remedy);
            return None;
        }
        let leased = self.leases.uid(&vm.id, &self.config.uids, &self.taken_uids);
        let remedy = "widen [uids] in the configuration, or forget removed VMs: microvm-spectrum list \
                      --all shows them";
        leased.map_err(|error| vm.error(error.to_string(), remedy)).ok()
    }

    /// Whether this user id is leased to another VM now.
    pub fn is_anothers(&self, id: &VmId, uid: u32) -> bool {
        self.leases.is_anothers(id, uid)
    }

    /// The ids of a VM's links, by provider: the declared ones, and leases for the others.
    pub fn links(&mut self, vm: &mut Candidate, definition: &Definition) -> BTreeMap<VmName, LinkId> {
        let mut links = vm.settings.links.clone();
        for provider in &definition.network_providers {
            let path = vm.path.join("providers/net").join(provider.as_str());
            if let Some(wanted) = vm.settings.links.get(provider) {
                let is_it = |link: &DeclaredLink| link.client == vm.id && link.provider == *provider;
                if let Some((_, client, other)) = self.refused_links.iter().find(|(link, ..)| is_it(link)) {
                    let cause = format!(
                        "cannot have the link id {wanted}, which the link from {client} to {other} has"
                    );
                    vm.problems.error(path, cause, "declare another id");
                }
                continue;
            }
            match self.leases.link(&vm.id, provider, &self.reserved_links) {
                Ok(link) => drop(links.insert(provider.clone(), link)),
                Err(error) => vm.problems.error(
                    path,
                    error.to_string(),
                    "remove links that are no longer needed, and forget removed VMs: microvm-spectrum list \
                     --all shows them",
                ),
            }
        }
        links
    }

    /// Leases the id of a link that a package which was built elsewhere has.
    pub fn built_link(&mut self, vm: &mut Candidate, provider: &VmName, link: LinkId) {
        let Err((client, other)) = self.leases.declare_link(&vm.id, provider, link) else { return };
        vm.error(
            format!(
                "has the id {link} for its link to {provider}, which the link from {client} to {other} has"
            ),
            format!(
                "build it with another id for that link (linkIds); or release that id, if {client} was \
                 removed: microvm-spectrum forget {client}"
            ),
        );
    }

    /// The leases of VMs that are not among `vms`.
    pub fn of_removed(&self, vms: &[CatalogVm]) -> Vec<CatalogLease> {
        let there: BTreeSet<_> = vms.iter().map(CatalogVm::id).collect();
        let removed = self.leases.all().filter(|(vm, ..)| !there.contains(vm));
        removed
            .map(|(vm, uid, links)| {
                let links = links.map(|(provider, id)| CatalogLink::new(provider, id)).collect();
                CatalogLease { vm: vm.clone(), uid, links }
            })
            .collect()
    }

    /// All leases.
    pub fn into_leases(self) -> Leases {
        self.leases
    }
}
