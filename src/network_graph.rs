// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Who provides whom with networks.
//!
//! The graph has a VM for each that can run, and an edge from each client to
//! each of its providers.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::VmName;

/// Why a VM cannot run although nothing is wrong with itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// No source has a provider of that name.
    #[error("its network provider {0} does not exist")]
    Missing(VmName),
    /// The provider is there, and cannot run.
    #[error("its network provider {0} cannot run")]
    Provider(VmName),
    /// The VM provides its own network, by way of the others.
    #[error("VMs provide each other's networks in a circle: {}", way(.0))]
    Cycle(Vec<VmName>),
}

/// The most VMs of a circle that are named: each of its VMs is told the circle.
const MAX_NAMED: usize = 32;

/// A circle, from one of its VMs back to that.
fn way(circle: &[VmName]) -> String {
    let mut names: Vec<_> = circle.iter().take(MAX_NAMED).map(VmName::to_string).collect();
    if let (Some(more), Some(last)) = (circle.len().checked_sub(MAX_NAMED + 1), circle.last()) {
        if more > 0 {
            names.push(format!("({more} more)"));
        }
        names.push(last.to_string());
    }
    names.join(" -> ")
}

/// Finds all VMs that cannot run because of the VMs that provide their networks.
///
/// `clients` are the VMs that could run by themselves, with their providers;
/// `broken` those that are there and could not.
pub fn blocked(
    clients: &BTreeMap<VmName, Vec<VmName>>,
    broken: &BTreeSet<VmName>,
) -> BTreeMap<VmName, Vec<Blocked>> {
    let mut found: BTreeMap<VmName, Vec<Blocked>> = BTreeMap::new();
    for cycle in cycles(clients) {
        for name in &cycle {
            // The whole circle, as it is seen from each of its VMs.
            let from = cycle.iter().position(|other| other == name).unwrap_or(0);
            let mut told: Vec<_> = cycle.iter().cycle().skip(from).take(cycle.len()).cloned().collect();
            told.push(name.clone());
            found.entry(name.clone()).or_default().push(Blocked::Cycle(told));
        }
    }
    // What is blocked blocks its own clients, until nothing changes any more.
    let runs = |found: &BTreeSet<VmName>, name: &VmName| clients.contains_key(name) && !found.contains(name);
    let mut all: BTreeSet<_> = found.keys().cloned().collect();
    loop {
        let more = clients.iter().filter(|(client, providers)| {
            !all.contains(*client) && providers.iter().any(|provider| !runs(&all, provider))
        });
        let more: Vec<_> = more.map(|(client, _)| client.clone()).collect();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    for (client, providers) in clients.iter().filter(|(client, _)| all.contains(*client)) {
        if found.contains_key(client) {
            continue;
        }
        let why = |provider: &VmName| match clients.contains_key(provider) || broken.contains(provider) {
            true => Blocked::Provider(provider.clone()),
            false => Blocked::Missing(provider.clone()),
        };
        let reasons = providers.iter().filter(|provider| !runs(&all, provider)).map(why);
        found.insert(client.clone(), reasons.collect());
    }
    found
}

/// All circles that can be found by always going on: each VM is in one at most.
fn cycles(clients: &BTreeMap<VmName, Vec<VmName>>) -> Vec<Vec<VmName>> {
    let mut done: BTreeSet<&VmName> = BTreeSet::new();
    let mut cycles = Vec::new();
    for start in clients.keys() {
        // The way from `start`, each with the providers that are still to be gone to.
        let mut way: Vec<(&VmName, std::slice::Iter<'_, VmName>)> = Vec::new();
        let mut next = Some(start);
        loop {
            if let Some(name) = next.take()
                && let Some((name, providers)) = clients.get_key_value(name)
                && !done.contains(name)
            {
                if let Some(from) = way.iter().position(|(other, _)| *other == name) {
                    cycles.push(way.iter().skip(from).map(|(name, _)| (*name).clone()).collect());
                } else {
                    way.push((name, providers.iter()));
                }
            }
            match way.last_mut() {
                None => break,
                Some((name, providers)) => match providers.next() {
                    Some(provider) => next = Some(provider),
                    None => {
                        done.insert(name);
                        way.pop();
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

    fn told(text: &str, broken: &[&str]) -> String {
        let found = blocked(&graph(text), &broken.iter().map(|b| name(b)).collect());
        let lines = found.iter().flat_map(|(n, why)| why.iter().map(move |why| format!("{n}: {why}")));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn says_what_blocks_whom() {
        assert_eq!(told("app:net net:up up:", &[]), "");
        assert_eq!(
            told("app:net,other net:up", &[]),
            "app: its network provider net cannot run\napp: its network provider other does not exist\n\
             net: its network provider up does not exist"
        );
        assert_eq!(told("app:net", &["net"]), "app: its network provider net cannot run");
    }

    #[test]
    fn names_the_whole_circle() {
        assert_eq!(
            told("a:b b:c c:a client:a free:", &[]),
            "a: VMs provide each other's networks in a circle: a -> b -> c -> a\n\
             b: VMs provide each other's networks in a circle: b -> c -> a -> b\n\
             c: VMs provide each other's networks in a circle: c -> a -> b -> c\n\
             client: its network provider a cannot run"
        );
        assert_eq!(told("a:a", &[]), "a: VMs provide each other's networks in a circle: a -> a");
    }

    proptest! {
        /// What is not blocked can be started in some order, and nothing else can.
        #[test]
        fn exactly_what_can_be_started_is_not_blocked(
            edges in proptest::collection::vec((0usize..8, 0usize..10), 0..20),
            broken in proptest::collection::btree_set(8usize..10, 0..2),
        ) {
            let vm = |number: usize| name(&format!("vm{number}"));
            let mut clients: BTreeMap<_, Vec<_>> = (0..8).map(|n| (vm(n), Vec::new())).collect();
            for (client, provider) in edges {
                clients.get_mut(&vm(client)).unwrap().push(vm(provider));
            }
            let broken = broken.into_iter().map(vm).collect();
            let found = blocked(&clients, &broken);
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
