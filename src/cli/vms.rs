// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which VMs are installed, for the commands that take their names.

use std::io;
use std::path::PathBuf;

use super::{Exit, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::state::catalog::{Catalog, CatalogError, VmState};
use crate::state::directory::StateDirectory;

/// How alike a wrong name must be to one that is suggested, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The installed VMs.
pub(super) struct Vms {
    pub state: StateDirectory,
    /// The catalog, where there is one.
    pub catalog: Option<Catalog>,
    /// Whether there is one that cannot be used, which was said.
    pub unusable: bool,
}

impl Vms {
    /// Those of a state directory.
    pub fn of(state_dir: &std::path::Path) -> Self {
        let state = StateDirectory::at(state_dir);
        let (catalog, unusable) = match Catalog::read(&state.catalog()) {
            Ok(catalog) => (Some(catalog), false),
            Err(CatalogError::Io(error)) if error.kind() == io::ErrorKind::NotFound => (None, false),
            Err(error) => {
                let path = state.catalog();
                let text = format!("{} {error}; microvm-spectrum sync makes it anew", path.display());
                report::line(&printable(text));
                (None, true)
            }
        };
        Self { state, catalog, unusable }
    }

    /// The names of the VMs that are not in the catalog: their folders are
    /// somebody else's, or they run on after they were removed from their source.
    pub fn others(&self) -> Vec<VmName> {
        let entries = std::fs::read_dir(self.state.root()).into_iter().flatten();
        let is_known =
            |name: &VmName| self.catalog.iter().any(|catalog| catalog.vms.iter().any(|vm| vm.name == *name));
        let mut names: Vec<_> = entries
            .filter_map(|entry| VmName::new(entry.ok()?.file_name()).ok())
            .filter(|name| {
                let theirs = self.state.vm(name).is_dir() && self.state.is_anothers(name);
                theirs || (self.state.booted(name).is_symlink() && !is_known(name))
            })
            .collect();
        names.sort();
        names
    }

    fn names(&self) -> Vec<VmName> {
        let known = self.catalog.iter().flat_map(|catalog| &catalog.vms).map(|vm| vm.name.clone());
        let mut names: Vec<_> = known.chain(self.others()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The VM that a user names; says so when there is none of that name.
    pub fn known(&self, text: &str) -> Result<VmName, Exit> {
        let names = self.names();
        let Some(name) = names.iter().find(|name| name.as_str() == text) else {
            let near = names
                .iter()
                .map(|name| (strsim::jaro_winkler(name.as_str(), text), name))
                .filter(|(alike, _)| *alike > ALIKE)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match near {
                Some((_, name)) => format!("; did you mean {name}?"),
                None if self.unusable => String::new(),
                None if names.is_empty() => "; none is installed: see microvm-spectrum-sync(1)".to_owned(),
                None => "; microvm-spectrum list shows them".to_owned(),
            };
            report::line(&format!("there is no VM '{}'{hint}", printable(text)));
            return Err(Exit::Input);
        };
        Ok(name.clone())
    }

    /// The VM that a user names, if it can run; says why when it cannot.
    pub fn usable(&self, text: &str) -> Result<VmName, Exit> {
        let name = self.known(text)?;
        match self.catalog.as_ref().and_then(|catalog| catalog.find(&name)) {
            Some(vm)
                if !matches!(vm.state, VmState::Runnable(_))
                    && self.state.booted(&name).symlink_metadata().is_err() =>
            {
                for problem in vm.problems() {
                    report::line(&format!("error: {}: {}", problem.path, problem.cause));
                    report::line(&format!("  help: {}", problem.remedy));
                }
                report::line(&format!("{name} cannot run"));
                Err(Exit::Input)
            }
            _ => Ok(name),
        }
    }

    /// The package that a VM runs from, or will.
    pub fn package(&self, name: &VmName) -> PathBuf {
        let booted = self.state.booted(name);
        if booted.exists() { booted } else { self.state.current(name) }
    }
}
