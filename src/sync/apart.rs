// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Shared directories through which a guest could change other VMs.

use std::path::{Path, PathBuf};

use crate::base::problem::Problems;
use crate::config::Config;
use crate::state::directory::StateDirectory;

/// The directories that no guest may change, free of links, and what is in them.
pub(super) struct Apart(Vec<(PathBuf, String)>);

impl Apart {
    /// The state directory, and the VM directories of all sources, which the reading of
    /// one VM directory does not know.
    pub fn new(config: &Config, state: &StateDirectory) -> Self {
        let sources = config.sources.iter().map(|source| {
            (source.vm_directories(), format!("the VM directories of the source {}", source.name))
        });
        let state = std::iter::once((state.root().to_owned(), "the state directory".to_owned()));
        // A guest cannot change a directory that does not exist.
        let there = sources.chain(state).filter_map(|(path, what)| Some((path.canonicalize().ok()?, what)));
        Self(there.collect())
    }

    /// Refuses a shared directory, free of links, whose link in the VM directory is `shown`.
    pub fn check(&self, source: &Path, shown: &Path, problems: &mut Problems) {
        for (directory, what) in &self.0 {
            if source.starts_with(directory) || directory.starts_with(source) {
                problems.error(
                    shown,
                    format!("leads to {}, through which the guest could change {what}", source.display()),
                    "share a directory of its own, apart from VM directories, kernels and images",
                );
            }
        }
    }
}
