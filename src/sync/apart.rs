// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Shared directories through which a guest could change other VMs.

use std::path::{Path, PathBuf};

use crate::base::problem::Problems;
use crate::config::Config;
use crate::state::directory::StateDirectory;

/// The directories that no guest may change, and what is in them.
///
/// The administrator alone decides which they are: a link on a source, such as a
/// `svc/data` that leads to `/`, would decide which directories others can share. What
/// such a link exposes are VM directories of its own source.
pub(super) struct Apart(Vec<(PathBuf, String)>);

impl Apart {
    /// The state directory, and the VM directories of all sources, which the reading of
    /// one VM directory does not know.
    pub fn new(config: &Config, state: &StateDirectory) -> Self {
        let sources = config.sources.iter().filter_map(|source| {
            let beneath = source.vm_directories();
            let beneath = beneath.strip_prefix(source.root()).ok()?;
            let path = source.root().canonicalize().ok()?.join(beneath);
            Some((path, format!("the VM directories of the source {}", source.name)))
        });
        let own = state.root().canonicalize().ok().map(|path| (path, "the state directory".to_owned()));
        Self(sources.chain(own).collect())
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
