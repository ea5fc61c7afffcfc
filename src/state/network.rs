// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The networks of all VMs: which VM provides which other with one.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::base::name::{SourceName, VmName};
use crate::link::id::LinkId;
use crate::state::catalog::{Catalog, CatalogLink, CatalogProblem, CatalogVm, VmState};

/// All VMs that are not shadowed.
#[derive(Debug, Serialize)]
pub struct Network<'a> {
    /// In the order of their names.
    pub vms: Vec<Node<'a>>,
}

/// One VM.
#[derive(Debug, Serialize)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// Its source.
    pub source: &'a SourceName,
    /// The name of its state in the catalog.
    state: &'static str,
    #[serde(skip)]
    vm: &'a CatalogVm,
    /// The VMs that provide its networks, or that should.
    pub providers: Vec<Provider<'a>>,
    /// What is wrong with it.
    pub problems: &'a [CatalogProblem],
}

/// A VM that provides another's network.
#[derive(Debug, Serialize)]
pub struct Provider<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// The link's id, once it has one.
    pub link: Option<LinkId>,
    /// The address that the client's guest takes.
    pub ipv4: Option<Ipv4Addr>,
}

impl<'a> Network<'a> {
    /// The networks of a catalog.
    pub fn of(catalog: &'a Catalog) -> Self {
        let is_shadowed = |vm: &&CatalogVm| matches!(vm.state, VmState::Shadowed { .. });
        Self { vms: catalog.vms.iter().filter(|vm| !is_shadowed(vm)).map(Node::of).collect() }
    }

    /// The VMs that can run.
    pub fn runnable(&self) -> impl Iterator<Item = &Node<'a>> {
        self.vms.iter().filter(|node| matches!(node.vm.state, VmState::Runnable(_)))
    }

    /// The VMs that cannot run because a VM that should provide a network cannot.
    pub fn blocked(&self) -> impl Iterator<Item = &Node<'a>> {
        self.vms.iter().filter(|node| matches!(node.vm.state, VmState::Blocked { .. }))
    }

    /// The links of the VMs that can run, each with its client.
    pub fn links(&self) -> impl Iterator<Item = (&'a VmName, &Provider<'a>)> {
        self.runnable().flat_map(|vm| vm.providers.iter().map(move |provider| (vm.name, provider)))
    }
}

impl<'a> Node<'a> {
    fn of(vm: &'a CatalogVm) -> Self {
        let providers = match &vm.state {
            VmState::Runnable(runnable) | VmState::Unavailable { last: Some(runnable), .. } => {
                let provider = |link: &'a CatalogLink| Provider {
                    name: &link.provider,
                    link: Some(link.id),
                    ipv4: Some(link.ipv4),
                };
                runnable.links.iter().map(provider).collect()
            }
            VmState::Blocked { providers, .. } => {
                providers.iter().map(|name| Provider { name, link: None, ipv4: None }).collect()
            }
            _ => Vec::new(),
        };
        let (state, problems) = (vm.state.as_str(), vm.problems());
        Self { name: &vm.name, source: &vm.source, state, vm, providers, problems }
    }
}
