// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *block*: no VM runs without its network providers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::find::{Place, Vms};
use super::round::Round;
use crate::base::name::{SourceName, VmName};
use crate::base::problem::{Problem, Problems};
use crate::config::SourceKind;
use crate::directory::definition::Reading;
use crate::link::graph::{self, Blocked};
use crate::state::catalog::{CatalogProblem, VmState};

/// The VMs, each with its network providers.
type Providers = BTreeMap<VmName, Vec<VmName>>;

/// The VMs that cannot run because of the VMs that should provide their networks, whatever
/// else becomes of any of them.
pub(super) fn certain(vms: &Vms) -> BTreeSet<VmName> {
    let (mut broken, mut providers) = (BTreeSet::new(), Providers::new());
    for (name, vms) in vms {
        // The others of this name are shadowed.
        match vms.first().map(|vm| &vm.place) {
            Some(Place::Directory(_, Reading { definition: Some(definition), .. })) => {
                providers.insert(name.clone(), definition.network_providers.clone());
            }
            Some(Place::Runner(_)) => drop(providers.insert(name.clone(), Vec::new())),
            _ => drop(broken.insert(name.clone())),
        }
    }
    graph::blocked(&providers, BTreeMap::new(), &broken).into_keys().collect()
}

impl Round<'_> {
    /// Takes out the VMs that cannot run because of the VMs that provide their networks.
    pub(super) fn block(&mut self) {
        let mut broken = BTreeSet::new();
        let mut providers = Providers::new();
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
        let all = providers.clone();
        let later = self.take_later(&mut providers);
        let blocked = graph::blocked(&providers, later, &broken);
        for vm in self.vms.iter_mut().filter(|vm| matches!(vm.state, VmState::Runnable(_))) {
            let Some(reasons) = blocked.get(&vm.name) else { continue };
            let Some(built) = self.built.remove(&vm.name) else { continue };
            let problem = |reason: &Blocked| {
                let path = &built.names_providers;
                let follows = matches!(reason, Blocked::Provider(_));
                Problem { follows, ..Problem::error(path, reason.to_string(), remedy_of(reason)) }
            };
            let found: Vec<_> = reasons.iter().map(problem).collect();
            let providers = all.get(&vm.name).cloned().unwrap_or_default();
            vm.state = VmState::Blocked { problems: CatalogProblem::errors(&found), providers, last: None };
            self.of_sources.add(&vm.source, found);
        }
        self.keep_from_starting(&providers);
    }

    /// Takes the providers out that are of a later source than their client, which the
    /// owner of that source could have made to get the client's traffic.
    fn take_later(&self, providers: &mut Providers) -> BTreeMap<VmName, Vec<(VmName, SourceName)>> {
        let running = self.vms.iter().filter(|vm| !matches!(vm.state, VmState::Shadowed { .. }));
        let sources: BTreeMap<_, _> = running.map(|vm| (&vm.name, &vm.source)).collect();
        // None is the configuration itself, which comes first, but belongs to the same
        // administrator as the built-in sources.
        let place = |source: &SourceName| self.sources.iter().position(|it| it.name == *source);
        let built_in = self.sources.iter().rposition(|it| it.kind == SourceKind::Builtin);
        let mut later: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (client, providers) in providers {
            let Some(source) = sources.get(client) else { continue };
            let last = place(source).or(built_in);
            providers.retain(|provider| match sources.get(provider).copied() {
                Some(source) if place(source) > last => {
                    later.entry(client.clone()).or_default().push((provider.clone(), source.clone()));
                    false
                }
                _ => true,
            });
        }
        later
    }

    /// Lets no VM start with the host that would start one which may not, since its source
    /// may not.
    fn keep_from_starting(&mut self, providers: &Providers) {
        let may_not = |source: &SourceName| {
            self.config.sources.iter().any(|it| it.name == *source && !it.may_autostart())
        };
        let vms = self.vms.iter().filter(|vm| matches!(vm.state, VmState::Runnable(_)));
        let mut because: BTreeMap<VmName, SourceName> =
            vms.filter(|vm| may_not(&vm.source)).map(|vm| (vm.name.clone(), vm.source.clone())).collect();
        let mut of_provider: BTreeMap<&VmName, Vec<&VmName>> = BTreeMap::new();
        for (client, providers) in providers {
            for provider in providers {
                of_provider.entry(provider).or_default().push(client);
            }
        }
        let mut waiting: Vec<_> = because.clone().into_iter().collect();
        while let Some((provider, source)) = waiting.pop() {
            for client in of_provider.get(&provider).into_iter().flatten().copied() {
                if !because.contains_key(client) {
                    because.insert(client.clone(), source.clone());
                    waiting.push((client.clone(), source.clone()));
                }
            }
        }
        let mut notes = Problems::default();
        for vm in &mut self.vms {
            let (VmState::Runnable(runnable), Some(source)) = (&mut vm.state, because.get(&vm.name)) else {
                continue;
            };
            if std::mem::take(&mut runnable.autostart) {
                let path =
                    self.built.get(&vm.name).map_or_else(PathBuf::new, |it| it.names_providers.clone());
                notes.note(
                    path,
                    format!("does not start with the host: it needs a VM of {source}, which may not"),
                    format!("set autostart = true for the source {source}, or autostart = false for this VM"),
                );
            }
        }
        self.problems.extend(notes.into_sorted());
    }
}

fn remedy_of(reason: &Blocked) -> &'static str {
    match reason {
        Blocked::Later(..) => {
            "have a VM of the same source or of an earlier one provide it, or change the order of the sources"
        }
        _ => "provide that VM, or remove its entry from providers/net",
    }
}
