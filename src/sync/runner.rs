// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Preparing a VM whose package was built elsewhere.

use std::path::Path;

use rustix::fs::FileType;

use super::candidate::Candidate;
use super::round::{Built, Round};
use super::trusted;
use crate::directory::stamp::FileStamp;
use crate::package;
use crate::plan::Plan;
use crate::state::catalog::Runnable;
use crate::state::place::PackagePlace;
use crate::system::trust;

const REMEDY: &str = "build it by lib.mkRunner of this project's flake, or by microvm-spectrum build";

impl Round<'_> {
    /// Prepares a VM from its package, which stays where it is.
    pub(super) fn take_runner(&mut self, vm: &mut Candidate) -> Option<Runnable> {
        self.check_folder(vm);
        let found = resolve(vm)?;
        let path = Path::new(&found);
        let plan = self.load(vm, path)?;
        for interface in &plan.interfaces {
            self.leasing.built_link(vm, &interface.provider, interface.link);
        }
        self.check_shares(vm, &plan);
        let files = stamps(vm, &plan, path)?;
        let built = Built::new(&plan, PackagePlace::At(found), None, vm.path.clone());
        self.accept(vm, &plan, files, built)
    }

    /// Reads the package's plan, and compares it with the VM and the host.
    fn load(&self, vm: &mut Candidate, found: &Path) -> Option<Plan> {
        let (name, host) = (vm.id.name.clone(), self.host.architecture);
        let plan = match package::load(found) {
            Ok(plan) => plan,
            Err(error) => {
                vm.error(format!("is not a package of this program: {error}"), REMEDY);
                return None;
            }
        };
        if plan.name != name {
            vm.error(
                format!("is the package of the VM {}, not of {name}", plan.name),
                format!("write [vm.{}], or build it by the name {name}", plan.name),
            );
        }
        if plan.architecture != host {
            let (of_plan, host) = (plan.architecture.as_str(), host.as_str());
            vm.error(format!("is for {of_plan}, and this host is {host}"), REMEDY);
        }
        Some(plan)
    }

    /// Checks the shared directories as they are now; the package has them as they were
    /// when it was built.
    fn check_shares(&self, vm: &mut Candidate, plan: &Plan) {
        let boundary = &plan.definition.boundary;
        for share in &plan.shares {
            let relative = plan.relative(&share.entry);
            let shown = boundary.user_partition.join(&relative);
            match boundary.resolve(&relative) {
                Ok(found) if found.file_type() == FileType::Directory => {
                    self.apart.check(&found.path, &shown, &mut vm.problems);
                }
                Ok(_) => {
                    vm.problems.error(shown, "does not lead to a directory", "let it lead to one");
                }
                Err(error) => vm.problems.push(error.problem(&shown)),
            }
        }
    }
}

/// The package's path, free of links.
fn resolve(vm: &mut Candidate) -> Option<String> {
    let resolved = if rustix::process::geteuid().is_root() {
        // Only root may be able to replace what root executes.
        let resolved = trust::resolve_tree(&vm.path);
        resolved.map_err(|untrusted| vm.problems.push(trusted::problem(&vm.path, &untrusted)))
    } else {
        let resolved = vm.path.canonicalize();
        resolved.map_err(|error| vm.error(format!("cannot be found: {error}"), "build it first"))
    };
    let text = resolved.ok()?.into_os_string().into_string();
    text.map_err(|_| vm.error("this path is not UTF-8", "use a path of UTF-8 text")).ok()
}

/// The stamps of the kernel, the images and the manifest.
fn stamps(vm: &mut Candidate, plan: &Plan, found: &Path) -> Option<Vec<FileStamp>> {
    let mut stamps = plan.stamps().map_err(|error| vm.problems.push(error.problem(&vm.path))).ok()?;
    let manifest = package::stamp(found);
    stamps.push(manifest.map_err(|e| vm.error(format!("cannot be looked at: {e}"), "build it again")).ok()?);
    Some(stamps)
}
