// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VM gets which user id and which link ids.
//!
//! A leased id stays. The ids that the administrator declares come before those that
//! the program derives, so that no other VM gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::prepare::Candidate;
use super::round::Before;
use crate::base::name::{VmId, VmName};
use crate::base::problem::Problem;
use crate::config::Config;
use crate::directory::definition::Definition;
use crate::link::id::LinkId;
use crate::state::catalog::{CatalogLease, CatalogLink, CatalogVm};
use crate::state::leases::{DeclaredLink, Leases, NoUidLeft};
use crate::state::started::Started;
use crate::system::accounts;

/// The leases in one round, and what is declared.
pub(super) struct Leasing<'a> {
    config: &'a Config,
    /// User ids that are not free: declared, or in use, or found to be of accounts of this
    /// host.
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

/// Why a VM gets no user id of the range.
enum NoUid {
    NoneLeft(NoUidLeft),
    Accounts(io::Error),
}

impl From<NoUidLeft> for NoUid {
    fn from(none_left: NoUidLeft) -> Self {
        Self::NoneLeft(none_left)
    }
}

/// Who has a user id.
enum Holder {
    /// A user or group of this host.
    Account,
    /// The accounts of this host cannot be looked at.
    Unknown(io::Error),
    /// A VM that it is leased to.
    Leased(VmId),
    /// A VM that still runs as this user, although another id is leased to it now.
    Running(VmId),
}

/// The problem that a VM gets no user id, because it may be a person's.
fn unknown(path: &Path, error: &io::Error) -> Problem {
    let cause = format!("gets no user id: the accounts of this host cannot be looked at: {error}");
    Problem::host(
        path,
        cause,
        "check the services of passwd and group in /etc/nsswitch.conf, then sync again",
    )
}

/// The user or group of this host that has this id.
fn account(uid: u32) -> Option<Holder> {
    match accounts::is_in_use(uid) {
        Ok(false) => None,
        Ok(true) => Some(Holder::Account),
        Err(error) => Some(Holder::Unknown(error)),
    }
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
        let running: BTreeMap<u32, VmId> =
            Started::all().into_iter().map(|started| (started.uid, started.vm)).collect();
        let mut refused_uids = BTreeMap::new();
        for (vm, uid) in config.declared_uids() {
            let holder = if let Some(holder) = leases.is_new(&vm, uid).then(|| account(uid)).flatten() {
                Some(holder)
            } else if let Some(other) = running.get(&uid).filter(|other| **other != vm) {
                Some(Holder::Running(other.clone()))
            } else {
                leases.declare_uid(&vm, uid).err().map(Holder::Leased)
            };
            refused_uids.extend(holder.map(|holder| (vm, (uid, holder))));
        }
        let declared_uids = config.declared_uids().map(|(_, uid)| uid);
        let taken_uids = declared_uids.chain(running.into_keys()).collect();
        let reserved_links = declared.iter().map(|link| link.id).collect();
        Self { config, taken_uids, reserved_links, refused_links, refused_uids, leases }
    }

    /// The user id of a VM.
    pub fn uid(&mut self, vm: &mut Candidate) -> Option<u32> {
        if let Some((uid, holder)) = self.refused_uids.get(&vm.id) {
            let account = "a user or a group of this host".to_owned();
            let (holder, remedy) = match holder {
                Holder::Account => (account, "choose a free one".to_owned()),
                Holder::Unknown(error) => {
                    vm.problems.push(unknown(&vm.path, error));
                    return None;
                }
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
        let taken = &mut self.taken_uids;
        let leased = self.leases.uid(&vm.id, &self.config.uids, |uid| {
            // A service may take its time, so none is asked twice.
            let is_taken = taken.contains(&uid) || accounts::is_in_use(uid).map_err(NoUid::Accounts)?;
            if is_taken {
                taken.insert(uid);
            }
            Ok(is_taken)
        });
        match leased {
            Ok(uid) => return Some(uid),
            Err(NoUid::NoneLeft(error)) => vm.error(
                error.to_string(),
                "widen [uids] in the configuration, or forget removed VMs: microvm-spectrum list --all \
                 shows them",
            ),
            Err(NoUid::Accounts(error)) => vm.problems.push(unknown(&vm.path, &error)),
        }
        None
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
