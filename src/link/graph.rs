// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VM provides which other with a network.
//!
//! The graph has a node for each VM that could run by itself, and an edge from each
//! client to each of its providers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::base::name::{SourceName, VmName};

/// Why a VM cannot run although its own definition is fine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// No source has a provider of that name.
    #[error("its network provider {0} does not exist")]
    Missing(VmName),
    /// The provider exists, but cannot run.
    #[error("its network provider {0} cannot run")]
    Provider(VmName),
    /// The provider is of a later source, which may not choose where the client's traffic
    /// goes.
    #[error("its network provider {0} is of {1}, a source that comes later")]
    Later(VmName, SourceName),
    /// The VM provides its own network, through other VMs.
    #[error("VMs provide each other's networks in a circle: {0}")]
    Cycle(Circle),
}

/// The most VMs of a circle that a message names, since each of them has that message.
const MAX_NAMED: usize = 32;

/// A circle, beginning at one of its VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circle {
    /// Its first VMs.
    first: Vec<VmName>,
    /// How many more there are.
    more: usize,
}

impl Circle {
    /// The circle, beginning at its VM number `index`.
    fn from(circle: &[VmName], index: usize) -> Self {
        let numbers = (0..circle.len().min(MAX_NAMED)).map(|after| (index + after) % circle.len());
        Self {
            first: numbers.filter_map(|number| circle.get(number)).cloned().collect(),
            more: circle.len().saturating_sub(MAX_NAMED),
        }
    }
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.first.iter().map(VmName::to_string).collect();
        if self.more > 0 {
            names.push(format!("({} more)", self.more));
        }
        names.extend(self.first.first().map(VmName::to_string));
        f.write_str(&names.join(" -> "))
    }
}

/// Finds all VMs that cannot run because of the VMs that provide their networks.
///
/// `clients` are the VMs that could run by themselves, each with its providers; `later`
/// are providers of these, with their sources, that they may not have; `broken` are the
/// other VMs.
pub fn blocked(
    clients: &BTreeMap<VmName, Vec<VmName>>,
    later: BTreeMap<VmName, Vec<(VmName, SourceName)>>,
    broken: &BTreeSet<VmName>,
) -> BTreeMap<VmName, Vec<Blocked>> {
    let mut found: BTreeMap<VmName, Vec<Blocked>> = BTreeMap::new();
    for cycle in cycles(clients) {
        for (index, name) in cycle.iter().enumerate() {
            found.entry(name.clone()).or_default().push(Blocked::Cycle(Circle::from(&cycle, index)));
        }
    }
    let in_circles: BTreeSet<_> = found.keys().cloned().collect();
    for (client, providers) in later {
        let why = providers.into_iter().map(|(provider, source)| Blocked::Later(provider, source));
        found.entry(client).or_default().extend(why);
    }
    // A blocked VM blocks its own clients.
    let mut of_provider: BTreeMap<&VmName, Vec<&VmName>> = BTreeMap::new();
    for (client, providers) in clients {
        for provider in providers {
            of_provider.entry(provider).or_default().push(client);
        }
    }
    let missing = of_provider.keys().copied().filter(|provider| !clients.contains_key(*provider));
    let by_themselves = clients.keys().filter(|name| found.contains_key(*name));
    let mut waiting: Vec<_> = missing.chain(by_themselves).collect();
    let mut all: BTreeSet<_> = found.keys().cloned().collect();
    while let Some(provider) = waiting.pop() {
        for client in of_provider.get(provider).into_iter().flatten().copied() {
            if all.insert(client.clone()) {
                waiting.push(client);
            }
        }
    }
    let runs = |found: &BTreeSet<VmName>, name: &VmName| clients.contains_key(name) && !found.contains(name);
    for (client, providers) in clients.iter().filter(|(client, _)| all.contains(*client)) {
        if in_circles.contains(client) {
            continue;
        }
        let why = |provider: &VmName| match clients.contains_key(provider) || broken.contains(provider) {
            true => Blocked::Provider(provider.clone()),
            false => Blocked::Missing(provider.clone()),
        };
        let reasons = providers.iter().filter(|provider| !runs(&all, provider)).map(why);
        found.entry(client.clone()).or_default().extend(reasons);
    }
    found
}

/// The circles that a depth-first search finds; each VM is in one at most.
fn cycles(clients: &BTreeMap<VmName, Vec<VmName>>) -> Vec<Vec<VmName>> {
    let mut done: BTreeSet<&VmName> = BTreeSet::new();
    let mut cycles = Vec::new();
    for start in clients.keys() {
        // The path from `start`: each VM with its providers that are still to visit.
        let mut path: Vec<(&VmName, std::slice::Iter<'_, VmName>)> = Vec::new();
        let mut places: BTreeMap<&VmName, usize> = BTreeMap::new();
        let mut next = Some(start);
        loop {
            if let Some(name) = next.take()
                && let Some((name, providers)) = clients.get_key_value(name)
                && !done.contains(name)
            {
                if let Some(from) = places.get(name).copied() {
                    cycles.push(path.iter().skip(from).map(|(name, _)| (*name).clone()).collect());
                } else {
                    places.insert(name, path.len());
                    path.push((name, providers.iter()));
                }
            }
            match path.last_mut() {
                None => break,
                Some((name, providers)) => match providers.next() {
                    Some(provider) => next = Some(provider),
                    None => {
                        done.insert(name);
                        places.remove(name);
                        path.pop();
                    }
                },
            }
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> VmName {
        VmName::new(text).unwrap()
    }

    fn graph(text: &str) -> BTreeMap<VmName, Vec<VmName>> {
        text.split_whitespace()
            .map(|vm| {
                let (client, providers) = vm.split_once(':').unwrap();
                (name(client), providers.split(',').filter(|p| !p.is_empty()).map(name).collect())
            })
            .collect()
    }

    fn reasons(text: &str, broken: &[&str]) -> String {
        let found = blocked(&graph(text), BTreeMap::new(), &broken.iter().map(|b| name(b)).collect());
        let lines = found.iter().flat_map(|(n, why)| why.iter().map(move |why| format!("{n}: {why}")));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn says_which_vm_blocks_which() {
        assert_eq!(reasons("app:net net:up up:", &[]), "");
        assert_eq!(
            reasons("app:net,other net:up", &[]),
            "app: its network provider net cannot run\napp: its network provider other does not exist\n\
             net: its network provider up does not exist"
        );
        assert_eq!(reasons("app:net", &["net"]), "app: its network provider net cannot run");
    }

    #[test]
    fn a_provider_of_a_later_source_blocks_its_client() {
        let later = BTreeMap::from([(name("app"), vec![(name("net"), SourceName::new("stick").unwrap())])]);
        let found = blocked(&graph("app:other client:app net:client"), later, &BTreeSet::new());
        let reasons = |vm: &str| found[&name(vm)].iter().map(Blocked::to_string).collect::<Vec<_>>();
        assert_eq!(
            reasons("app"),
            [
                "its network provider net is of stick, a source that comes later",
                "its network provider other does not exist"
            ]
        );
        // The later source makes no circle of it.
        assert_eq!(reasons("client"), ["its network provider app cannot run"]);
        assert_eq!(reasons("net"), ["its network provider client cannot run"]);
    }

    #[test]
    fn names_the_whole_circle() {
        assert_eq!(
            reasons("a:b b:c c:a client:a free:", &[]),
            "a: VMs provide each other's networks in a circle: a -> b -> c -> a\n\
             b: VMs provide each other's networks in a circle: b -> c -> a -> b\n\
             c: VMs provide each other's networks in a circle: c -> a -> b -> c\n\
             client: its network provider a cannot run"
        );
        assert_eq!(reasons("a:a", &[]), "a: VMs provide each other's networks in a circle: a -> a");
    }

    /// An untrusted source decides how many there are. If each VM of a circle named all
    /// of them, or a search visited all for each, this would not end.
    #[test]
    fn a_circle_and_a_chain_of_very_many() {
        let vm = |number: usize| name(&format!("vm{number}"));
        let mut clients: BTreeMap<_, _> = (0..50_000).map(|n| (vm(n), vec![vm(n + 1)])).collect();
        assert_eq!(blocked(&clients, BTreeMap::new(), &BTreeSet::new()).len(), 50_000);
        clients.insert(vm(50_000), vec![vm(0)]);
        let found = blocked(&clients, BTreeMap::new(), &BTreeSet::new());
        assert_eq!(found.len(), 50_001);
        let reason = found[&vm(7)][0].to_string();
        assert!(
            reason.contains(": vm7 -> vm8 -> ") && reason.ends_with(" -> vm38 -> (49969 more) -> vm7"),
            "{reason}"
        );
        clients.insert(vm(50_000), vec![]);
        assert_eq!(blocked(&clients, BTreeMap::new(), &BTreeSet::new()), BTreeMap::new());
    }

    proptest! {
        /// VMs can be started in some order if and only if they are not blocked.
        #[test]
        fn exactly_the_vms_that_can_be_started_are_not_blocked(
            edges in proptest::collection::vec((0usize..8, 0usize..10), 0..20),
            broken in proptest::collection::btree_set(8usize..10, 0..2),
        ) {
            let vm = |number: usize| name(&format!("vm{number}"));
            let mut clients: BTreeMap<_, Vec<_>> = (0..8).map(|n| (vm(n), Vec::new())).collect();
            for (client, provider) in edges {
                clients.get_mut(&vm(client)).unwrap().push(vm(provider));
            }
            let broken = broken.into_iter().map(vm).collect();
            let found = blocked(&clients, BTreeMap::new(), &broken);
            let mut started = BTreeSet::new();
            loop {
                let can = |(c, ps): &(&VmName, &Vec<VmName>)| !started.contains(*c) && ps.iter().all(|p| started.contains(p));
                let Some(next) = clients.iter().find(can).map(|(c, _)| c.clone()) else { break };
                started.insert(next);
            }
            for client in clients.keys() {
                prop_assert_eq!(started.contains(client), !found.contains_key(client), "{}", client);
            }
        }
    }
}
