// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM of which a round finds out whether it can run.

use std::path::PathBuf;

use crate::base::name::VmId;
use crate::base::problem::Problems;
use crate::config::{Config, Settings};

/// A VM that is being prepared.
pub(super) struct Candidate {
    pub id: VmId,
    pub settings: Settings,
    /// Its directory or package, for problems.
    pub path: PathBuf,
    /// Its problems.
    pub problems: Problems,
    /// Whether its directory is the same as at the last round.
    pub unchanged: bool,
}

impl Candidate {
    /// A VM with the settings that the configuration has for it.
    pub fn new(config: &Config, id: VmId, path: PathBuf) -> Self {
        let mut settings = config.settings(&id);
        let source = config.sources.iter().find(|source| source.name == id.source);
        if source.is_some_and(|source| !source.may_autostart()) {
            settings.autostart = Some(false);
        }
        Self { id, settings, path, problems: Problems::default(), unchanged: false }
    }

    /// Adds an error of its directory or package.
    pub fn error(&mut self, cause: impl Into<String>, remedy: impl Into<String>) {
        self.problems.error(&self.path, cause, remedy);
    }
}
