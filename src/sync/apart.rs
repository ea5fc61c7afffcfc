// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Shared directories by which a guest could change other VMs.

use std::path::{Path, PathBuf};

use crate::base::problem::Problems;
use crate::config::Config;
use crate::state::directory::StateDirectory;

/// The directories that no guest may change, free of links, and what they are.
pub(super) struct Apart(Vec<(PathBuf, String)>);

impl Apart {
    /// The VM directories of all sources, which a VM directory alone does not
    /// know of, and what is installed.
    pub fn new(config: &Config, state: &StateDirectory) -> Self {
        let sources = config.sources.iter().map(|source| {
            (source.vm_directories(), format!("the VM directories of the source {}", source.name))
        });
        let state = std::iter::once((state.root().to_owned(), "the state directory".to_owned()));
        // One that is not there has nothing to be changed.
        let there = sources.chain(state).filter_map(|(path, what)| Some((path.canonicalize().ok()?, what)));
        Self(there.collect())
    }

    /// Refuses a shared directory, free of links, whose own link is shown as `shown`.
    pub fn check(&self, source: &Path, shown: &Path, problems: &mut Problems) {
        for (directory, what) in &self.0 {
            if source.starts_with(directory) || directory.starts_with(source) {
                problems.error(
                    shown,
                    format!("leads to {}, by which the guest could change {what}", source.display()),
                    "share a directory of its own, apart from VM directories, kernels and images",
                );
            }
        }
    }
}
