// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The installed VMs: those of the catalog, and those that others installed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::name::VmName;
use crate::base::printable::Printable;
use crate::base::problem::{Problem, Severity};
use crate::state::catalog::{Catalog, CatalogError, CatalogProblem, CatalogVm, VmState};
use crate::state::cib;
use crate::state::directory::StateDirectory;
use crate::state::leases::Leases;
use crate::state::unreadable;
use crate::system::control::Verb;

/// How similar a wrong name must be to the one that is suggested, from 0 to 1.
const SIMILAR: f64 = 0.7;

/// The installed VMs of a state directory.
pub struct Installed {
    /// The state directory.
    pub state: StateDirectory,
    /// The catalog, if there is one that can be used.
    pub catalog: Option<Catalog>,
    /// Why the catalog that is there cannot be used.
    pub problem: Option<Problem>,
}

/// Why a command has no VM to work on.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// `sync` was never called.
    #[error("no VM is installed: see microvm-spectrum-sync(1)")]
    NoneInstalled,
    /// No VM has that name.
    #[error("there is no VM '{name}'{hint}")]
    Unknown {
        /// The name, untrusted.
        name: String,
        /// What the user may have meant, or can do.
        hint: String,
    },
    /// It has problems, or a VM that provides its network has.
    #[error("{} cannot run", .0.name)]
    CannotRun(Box<CatalogVm>),
    /// The cluster decides whether it runs on this host.
    #[error(
        "the cluster manages {0}: run 'pcs resource {pcs} {resource}' or 'crm resource {1} {resource}'; --force \
         does it on this host without asking the cluster",
        pcs = in_pcs(*.1), resource = cib::resource(.0)
    )]
    OfCluster(VmName, Verb),
}

/// What `pcs resource` calls it.
fn in_pcs(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "enable",
        Verb::Stop => "disable",
        Verb::Restart => "restart",
    }
}

impl Installed {
    /// Reads what is installed in the state directory at `root`.
    pub fn read(root: &Path) -> Self {
        let state = StateDirectory::at(root);
        let path = state.catalog();
        let (catalog, problem) = match Catalog::read(&path) {
            Ok(mut catalog) => {
                // What was forgotten since the catalog was written is no VM's any more.
                if let Ok(leases) = Leases::read(&state.leases()) {
                    let leased: BTreeSet<_> = leases.all().map(|(vm, ..)| vm).collect();
                    catalog.leases.retain(|lease| leased.contains(&lease.vm));
                }
                (Some(catalog), None)
            }
            Err(CatalogError::Io(error)) if error.kind() == io::ErrorKind::NotFound => (None, None),
            Err(CatalogError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
                (None, Some(unreadable(&path)(error)))
            }
            Err(error) => {
                let remedy = "run 'microvm-spectrum sync' to write it again";
                (None, Some(Problem::error(path, error.to_string(), remedy)))
            }
        };
        Self { state, catalog, problem }
    }

    /// The names of the VMs that are not in the catalog: others installed them, or
    /// they still run although they were removed from their source.
    pub fn others(&self) -> Vec<VmName> {
        let entries = std::fs::read_dir(self.state.root()).into_iter().flatten();
        let is_known =
            |name: &VmName| self.catalog.iter().any(|catalog| catalog.vms.iter().any(|vm| vm.name == *name));
        let mut names: Vec<_> = entries
            .filter_map(|entry| VmName::new(entry.ok()?.file_name()).ok())
            .filter(|name| {
                let theirs = self.state.vm(name).is_dir() && self.state.is_anothers(name).unwrap_or(true);
                theirs || (self.state.booted(name).is_symlink() && !is_known(name))
            })
            .collect();
        names.sort();
        names
    }

    /// The names of all that are installed, sorted.
    pub fn names(&self) -> Vec<VmName> {
        let known = self.catalog.iter().flat_map(|catalog| &catalog.vms).map(|vm| vm.name.clone());
        let mut names: Vec<_> = known.chain(self.others()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The VM with the name that a user typed.
    ///
    /// # Errors
    /// [`VmError::Unknown`].
    pub fn known(&self, text: &str) -> Result<VmName, VmError> {
        let names = self.names();
        if let Some(name) = names.iter().find(|name| name.as_str() == text) {
            return Ok(name.clone());
        }
        let near = names
            .iter()
            .map(|name| (strsim::jaro_winkler(name.as_str(), text), name))
            .filter(|(similar, _)| *similar > SIMILAR)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match near {
            Some((_, name)) => format!("; did you mean {name}?"),
            None if self.problem.is_some() => String::new(),
            None if names.is_empty() => "; none is installed: see microvm-spectrum-sync(1)".to_owned(),
            None => "; microvm-spectrum list shows them".to_owned(),
        };
        Err(VmError::Unknown { name: text.to_owned(), hint })
    }

    /// The VM with the name that a user typed, if it can run or still does.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn usable(&self, text: &str) -> Result<VmName, VmError> {
        let name = self.known(text)?;
        match self.unable_to_run(&name) {
            Some(vm) => Err(VmError::CannotRun(Box::new(vm.clone()))),
            None => Ok(name),
        }
    }

    /// The VM with the name that a user typed, if it is [usable](Self::usable) and not the cluster's.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn controlled(&self, text: &str, verb: Verb) -> Result<VmName, VmError> {
        let name = self.usable(text)?;
        if self.of_cluster().contains(&name) { Err(VmError::OfCluster(name, verb)) } else { Ok(name) }
    }

    /// The VMs that the cluster manages.
    pub fn of_cluster(&self) -> BTreeSet<VmName> {
        let known = self.catalog.iter().flat_map(Catalog::known);
        known.filter(|(_, runnable)| runnable.cluster).map(|(vm, _)| vm.name.clone()).collect()
    }

    /// The VMs that can run or still do.
    pub fn able_to_run(&self) -> Vec<VmName> {
        self.names().into_iter().filter(|name| self.unable_to_run(name).is_none()).collect()
    }

    /// The VMs that run.
    pub fn running(&self) -> Vec<VmName> {
        self.names().into_iter().filter(|name| self.runs(name)).collect()
    }

    fn runs(&self, name: &VmName) -> bool {
        self.state.booted(name).symlink_metadata().is_ok()
    }

    /// The VM, if it can neither run nor does.
    fn unable_to_run(&self, name: &VmName) -> Option<&CatalogVm> {
        let vm = self.catalog.as_ref()?.find(name)?;
        (!matches!(vm.state, VmState::Runnable(_)) && !self.runs(name)).then_some(vm)
    }

    /// The package that a VM runs from, or that its next start will run.
    pub fn package(&self, name: &VmName) -> PathBuf {
        let booted = self.state.booted(name);
        if booted.exists() { booted } else { self.state.current(name) }
    }
}

/// What a catalog says about the directories of its sources and VMs, in their order.
pub fn findings(catalog: &Catalog) -> Vec<(Printable, Vec<(Severity, CatalogProblem)>)> {
    let of_source = |problem: &CatalogProblem| (Severity::Note, problem.clone());
    let sources = catalog.sources.iter().filter_map(|source| {
        Some((Printable::new(&source.directory), vec![of_source(source.problem.as_ref()?)]))
    });
    let vms = catalog.vms.iter().map(|vm| (vm.directory.clone(), findings_of(vm)));
    sources.chain(vms).collect()
}

fn findings_of(vm: &CatalogVm) -> Vec<(Severity, CatalogProblem)> {
    match &vm.state {
        // The finding is that of the source.
        VmState::Runnable(_) | VmState::Unavailable { .. } => Vec::new(),
        VmState::Broken { problems, .. } | VmState::Blocked { problems, .. } => {
            problems.iter().map(|problem| (Severity::Error, problem.clone())).collect()
        }
        VmState::Shadowed { by } => {
            let cause = Printable::composed(format!("is shadowed by the VM of that name in {by}"));
            let (path, remedy) = (vm.directory.clone(), Printable::composed("rename one of them"));
            vec![(Severity::Note, CatalogProblem { path, cause, remedy })]
        }
    }
}
