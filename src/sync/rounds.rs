// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Rounds, one after the other, until no source changes during one.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use super::{Ended, Surroundings, run};
use crate::base::name::VmId;
use crate::base::problem::Problem;
use crate::config::Config;
use crate::state::catalog::{Catalog, CatalogVm, VmState};

/// The most rounds of one sync.
const MAX_ROUNDS: usize = 3;

/// The rounds of one sync: each `next` brings the state directory up to date.
///
/// While a sync runs, systemd ignores what its path units see. So where VMs run in units,
/// there is another round when a source has changed during the last one, or when the
/// last one found errors in a VM directory that systemd has not watched until then: it
/// does once the caller has had it read the new catalog.
pub struct Rounds<'a> {
    config: &'a Config,
    host: &'a Surroundings<'a>,
    left: usize,
    /// The sources before the last round.
    seen: Option<Vec<Seen>>,
    found_errors: bool,
}

/// Which directory a source is, and when its names changed last.
type Seen = Option<(u64, u64, Option<SystemTime>)>;

impl<'a> Rounds<'a> {
    /// The rounds of a sync with this configuration.
    pub fn new(config: &'a Config, host: &'a Surroundings<'a>) -> Self {
        let left = if host.for_units { MAX_ROUNDS } else { 1 };
        Self { config, host, left, seen: None, found_errors: false }
    }

    fn look(&self) -> Vec<Seen> {
        let seen = |found: std::fs::Metadata| (found.dev(), found.ino(), found.modified().ok());
        let sources = self.config.sources.iter();
        sources.map(|source| source.vm_directories().metadata().ok().map(seen)).collect()
    }
}

impl Iterator for Rounds<'_> {
    type Item = Result<Ended, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let now = self.look();
        if !self.found_errors && self.seen.as_ref().is_some_and(|seen| *seen == now) {
            return None;
        }
        self.seen = Some(now);
        let ended = run(self.config, self.host);
        self.found_errors = match &ended {
            Ok(Ended::Synced(synced)) => {
                let before = synced.before.as_ref().map(broken).unwrap_or_default();
                !broken(&synced.catalog).is_subset(&before)
            }
            Ok(Ended::AsItWas(_)) | Err(_) => false,
        };
        Some(ended)
    }
}

fn broken(catalog: &Catalog) -> BTreeSet<VmId> {
    let broken = catalog.vms.iter().filter(|vm| matches!(vm.state, VmState::Broken { .. }));
    broken.map(CatalogVm::id).collect()
}
