// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What running VMs use of the state directory and the Nix store.
//!
//! The lock stops a VM from recording its start in `booted` meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::base::problem::Problem;
use crate::package::{self, LoadError};
use crate::state::directory::StateDirectory;
use crate::state::look::{is_missing, names, unless_missing};
use crate::state::{nix_store, unreadable};

/// What running VMs use.
pub(super) struct InUse {
    /// Their `booted` links.
    booted: Vec<PathBuf>,
    /// The names of their packages in the state directory.
    pub packages: BTreeSet<String>,
}

impl InUse {
    /// Looks at the links `booted` of all folders.
    pub fn look(state: &StateDirectory) -> Result<Self, Problem> {
        // The targets of `booted` are free of links.
        let own = state.packages();
        let own = own.canonicalize().map_err(unreadable(&own))?;
        let mut parents: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut in_use = Self { booted: Vec::new(), packages: BTreeSet::new() };
        for name in names(state.root()).map_err(unreadable(state.root()))? {
            let booted = state.root().join(&name).join("booted");
            let target = unless_missing(std::fs::read_link(&booted)).map_err(unreadable(&booted))?;
            let Some(target) = target else { continue };
            in_use.booted.push(booted);
            let Some((parent, package)) = parent_and_name(&target) else { continue };
            let is_ours = match parents.get(parent) {
                Some(is_ours) => *is_ours,
                None => {
                    let found = unless_missing(parent.canonicalize()).map_err(unreadable(parent))?;
                    found.is_some_and(|found| found == own)
                }
            };
            parents.insert(parent.to_owned(), is_ours);
            if is_ours {
                in_use.packages.insert(package.to_owned());
            }
        }
        Ok(in_use)
    }

    /// The Nix store paths that running VMs need; nothing when one cannot be looked at.
    pub fn store_paths(&self) -> Option<BTreeSet<PathBuf>> {
        let mut used = BTreeSet::new();
        for booted in &self.booted {
            let Some(booted) = unless_missing(booted.canonicalize()).ok()? else { continue };
            used.extend(nix_store::path_of(&booted));
            match package::load(&booted) {
                Ok(plan) => used.extend(nix_store::paths_of(&plan)),
                Err(LoadError::Io { error, .. }) if !is_missing(&error) => return None,
                Err(_) => {}
            }
        }
        Some(used)
    }
}

fn parent_and_name(path: &Path) -> Option<(&Path, &str)> {
    Some((path.parent()?, path.file_name()?.to_str()?))
}
