// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A round: one look at all sources, and what follows from it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::apart::Apart;
use super::before::Before;
use super::find::Found;
use super::known::Known;
use super::leasing::Leasing;
use super::of_sources::OfSources;
use super::pins::Pins;
use super::{Surroundings, Synced};
use crate::base::name::VmName;
use crate::base::problem::Problems;
use crate::config::Config;
use crate::package::Package;
use crate::plan::Plan;
use crate::state::catalog::{CATALOG_VERSION, Catalog, CatalogSource, CatalogVm};
use crate::state::nix_store;
use crate::state::place::PackagePlace;

/// The package of a VM that can run.
pub(super) struct Built {
    /// Where it is, or will be.
    pub place: PackagePlace,
    /// What it is made of; nothing of a package that was built elsewhere.
    pub files: Option<Files>,
    /// The Nix store paths that running it takes.
    pub store_paths: BTreeSet<PathBuf>,
    /// The directory or package that names the VM's network providers.
    pub names_providers: PathBuf,
}

/// What a package is made of.
pub(super) enum Files {
    /// It is laid out.
    Laid(Package),
    /// It is known by its manifest, and mostly not needed.
    Planned(Box<Plan>),
}

impl Files {
    /// The package.
    pub fn package(&self) -> Cow<'_, Package> {
        match self {
            Self::Laid(package) => Cow::Borrowed(package),
            Self::Planned(plan) => Cow::Owned(Package::of(plan)),
        }
    }
}

impl Built {
    /// The package of this plan.
    pub fn new(plan: &Plan, place: PackagePlace, files: Option<Files>, names_providers: PathBuf) -> Self {
        let mut store_paths = nix_store::paths_of(plan);
        if let PackagePlace::At(path) = &place {
            store_paths.extend(nix_store::path_of(Path::new(path)));
        }
        Self { place, files, store_paths, names_providers }
    }
}

/// One round. The passes add to it and take from it, each in a module of its own.
pub(super) struct Round<'a> {
    pub config: &'a Config,
    pub host: &'a Surroundings<'a>,
    pub before: Before,
    pub leasing: Leasing<'a>,
    pub apart: Apart,
    /// The sources, in their order.
    pub sources: Vec<CatalogSource>,
    /// All VMs, as the catalog will have them.
    pub vms: Vec<CatalogVm>,
    /// The packages of those that can run.
    pub built: BTreeMap<VmName, Built>,
    /// The problems of sources, settings and the host.
    pub problems: Problems,
    /// The problems of VMs.
    pub of_sources: OfSources,
    /// What may differ on other hosts of the cluster.
    pub pins: Pins,
    /// What is known of VM directories and packages.
    pub known: Known,
}

impl<'a> Round<'a> {
    /// Decides which VMs run, with which packages and leases. Reads, and writes nothing.
    pub fn decide(config: &'a Config, host: &'a Surroundings<'a>, before: Before, found: Found) -> Self {
        let Found { sources, vms, problems, of_sources, known } = found;
        let mut round = Self {
            config,
            host,
            leasing: Leasing::new(config, &before),
            apart: Apart::new(config, host.state),
            before,
            sources,
            vms: Vec::new(),
            built: BTreeMap::new(),
            problems,
            of_sources,
            pins: Pins::default(),
            known,
        };
        round.prepare(vms);
        round.devices();
        round.block();
        round.keep();
        round.pin();
        round.leasing.settle(host.state, round.before.catalog.as_ref(), &round.vms);
        let of_sources = std::mem::take(&mut round.of_sources);
        round.problems.extend(of_sources.reported(&round.sources).into_sorted());
        round
    }

    /// What [`install`](Self::install) would do.
    pub fn rehearse(self) -> Synced {
        let Self { before, leasing, sources, vms, problems, pins, .. } = self;
        let before = before.catalog;
        let generation = before.as_ref().map_or(0, |before| before.generation).saturating_add(1);
        let leases = leasing.of_removed(&vms);
        let catalog = Catalog { version: CATALOG_VERSION, generation, sources, vms, leases };
        match before.clone().filter(|before| before.is_like(&catalog)) {
            Some(catalog) => Synced { catalog, before, problems, pins, changed: false },
            None => Synced { catalog, before, problems, pins, changed: true },
        }
    }
}
