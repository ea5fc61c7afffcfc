// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VM gets which user id and which link ids.
//!
//! A leased id stays. The ids that the administrator declares come before those that
//! the program derives, so that no other VM gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::before::Before;
use super::candidate::Candidate;
use crate::base::name::{SourceName, VmId, VmName};
use crate::base::problem::Problem;
use crate::config::Config;
use crate::directory::definition::{Definition, MAX_PROVIDERS};
use crate::link::id::LinkId;
use crate::state::catalog::{Catalog, CatalogLease, CatalogLink, CatalogVm, VmState};
use crate::state::directory::StateDirectory;
use crate::state::leases::{DeclaredLink, Leases, NoUidLeft, UidSearch};
use crate::state::started::Started;
use crate::state::unused;
use crate::system::accounts;

/// The leases in one round, and what is declared.
pub(super) struct Leasing<'a> {
    config: &'a Config,
    /// User ids that are not free: declared, or in use, or found to be of accounts of this
    /// host.
    taken_uids: BTreeSet<u32>,
    /// Declared links that cannot have their id, with the client and the provider of
    /// the link that has it.
    refused_links: Vec<(DeclaredLink, VmId, VmName)>,
    /// VMs that cannot have their declared user id.
    refused_uids: BTreeMap<VmId, (u32, Holder)>,
    leases: Leases,
    /// The leases at the beginning of the round, declared ones included.
    earlier: Leases,
    /// The user ids that are left.
    free_uids: UidSearch,
    /// How many leases the VMs of each source have.
    of_sources: BTreeMap<SourceName, Leased>,
    /// The user ids of removed VMs that have never run.
    pub released: Vec<u32>,
}

/// How many leases the VMs of a source have, removed ones included.
#[derive(Default)]
struct Leased {
    vms: usize,
    links: usize,
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
        let mut of_sources: BTreeMap<SourceName, Leased> = BTreeMap::new();
        for (vm, uid, links) in leases.all() {
            let leased = of_sources.entry(vm.source.clone()).or_default();
            leased.vms += usize::from(uid.is_some());
            leased.links += links.count();
        }
        let (earlier, free_uids) = (leases.clone(), leases.search(&config.uids));
        let released = Vec::new();
        Self {
            config,
            taken_uids,
            refused_links,
            refused_uids,
            leases,
            earlier,
            free_uids,
            of_sources,
            released,
        }
    }

    /// Checks that the VM's source can have the leases that the VM needs.
    pub fn check_quota(&mut self, vm: &mut Candidate) -> Option<()> {
        let Some(source) = self.config.source(&vm.id.source) else { return Some(()) };
        let most = source.max_vms();
        let of_source = self.of_sources.entry(vm.id.source.clone()).or_default();
        if self.leases.uid_of(&vm.id).is_some() || of_source.vms < most {
            return Some(());
        }
        vm.problems.error(
            source.vm_directories(),
            format!(
                "the source {} has no lease left for this VM: {most} of its VMs can run, and removed ones count",
                vm.id.source
            ),
            format!(
                "remove VMs that are not needed, then release their leases: microvm-spectrum forget --source \
                 {}; or set max-vms for this source",
                vm.id.source
            ),
        );
        None
    }

    /// Ends leases that this round has given to VMs that cannot run after all, and those of
    /// removed VMs that have never run. These were not in the catalog `before` either: who is
    /// in the current one may start at any moment.
    pub fn settle(&mut self, state: &StateDirectory, before: Option<&Catalog>, vms: &[CatalogVm]) {
        let removed: BTreeSet<_> = before.iter().flat_map(|it| &it.leases).map(|lease| &lease.vm).collect();
        let there: BTreeMap<_, _> = vms.iter().map(|vm| (vm.id(), &vm.state)).collect();
        let declared: BTreeSet<_> = self.config.named().map(|(_, vm)| vm).collect();
        let all: Vec<_> = self.leases.all().map(|(vm, ..)| vm.clone()).collect();
        for vm in all {
            match there.get(&vm) {
                Some(VmState::Runnable(_) | VmState::Unavailable { .. }) => {}
                // Nothing is wrong but what its user can read, which may be granted to that user.
                Some(VmState::Broken { .. })
                    if self.earlier.uid_of(&vm).is_none() && self.leases.uid_of(&vm).is_some() => {}
                Some(_) => self.leases.restore(&vm, &self.earlier),
                None if removed.contains(&vm) && !declared.contains(&vm) && unused::is(state, &vm) => {
                    self.released.extend(self.leases.forget(&vm));
                }
                None => {}
            }
        }
    }

    /// The VMs that have a user id since this round.
    pub fn new_vms(&self) -> Vec<VmId> {
        let with_uid = self.leases.all().filter_map(|(vm, uid, _)| uid.map(|_| vm));
        with_uid.filter(|vm| self.earlier.uid_of(vm).is_none()).cloned().collect()
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
        let is_new = self.leases.uid_of(&vm.id).is_none();
        let taken = &self.taken_uids;
        let leased = self.leases.uid(&vm.id, &mut self.free_uids, |uid| {
            Ok(taken.contains(&uid) || accounts::is_in_use(uid).map_err(NoUid::Accounts)?)
        });
        match leased {
            Ok(uid) => {
                let of_source = self.of_sources.entry(vm.id.source.clone()).or_default();
                of_source.vms += usize::from(is_new);
                return Some(uid);
            }
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
            let is_new = self.leases.link_of(&vm.id, provider).is_none();
            let of_source = self.of_sources.entry(vm.id.source.clone()).or_default();
            // A VM that names others all the time must not take all ids.
            let most = self.config.source(&vm.id.source).map(|it| it.max_vms().saturating_mul(MAX_PROVIDERS));
            if is_new && most.is_some_and(|most| of_source.links >= most) {
                vm.problems.error(
                    path,
                    format!("the source {} has no lease left for this link", vm.id.source),
                    format!(
                        "release those of removed VMs: microvm-spectrum forget --source {}",
                        vm.id.source
                    ),
                );
                continue;
            }
            of_source.links += usize::from(is_new);
            match self.leases.link(&vm.id, provider) {
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

    /// The links that could have other ids if all VMs had been installed in another order, as
    /// they may be on another host: those from the id that a link would have had to the one
    /// that it has instead.
    pub fn colliding(&self) -> BTreeSet<LinkId> {
        let all = || self.leases.all().flat_map(|(vm, _, links)| links.map(move |link| (vm, link)));
        let given: BTreeSet<_> = all().map(|(_, (_, id))| id).collect();
        let mut colliding = BTreeSet::new();
        for (client, (provider, id)) in all() {
            let first = LinkId::first(&client.name, provider);
            if !self.is_declared(client, provider) && first < id {
                colliding.extend(given.range(first..=id));
            } else if !self.is_declared(client, provider) && first > id {
                // After the last id comes the first.
                colliding.extend(given.range(first..).chain(given.range(..=id)));
            }
        }
        colliding
    }

    /// Whether the id of a link is the same everywhere: declared, or in a package that was
    /// built elsewhere.
    pub fn is_declared(&self, client: &VmId, provider: &VmName) -> bool {
        client.source == SourceName::configuration()
            || self.config.settings(client).links.contains_key(provider)
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
