// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The pass *prepare*: plans each VM by itself, and leases what it needs.

use std::collections::BTreeMap;
use std::path::Path;

use super::candidate::Candidate;
use super::find::{FoundVm, Place, Vms};
use super::round::{Built, Files, Round};
use super::{access, block, trusted};
use crate::base::name::{SourceName, VmId};
use crate::config::{AcceleratorChoice, Settings};
use crate::directory::definition::{Location, Reading};
use crate::directory::stamp::FileStamp;
use crate::package::Package;
use crate::package::planning::{self, Choices};
use crate::plan::pci;
use crate::plan::{HypervisorName, Plan};
use crate::state::catalog::{CatalogLink, CatalogProblem, CatalogUplink, CatalogVm, Runnable, VmState};
use crate::state::place::PackagePlace;
use crate::state::{nix_store, unreadable};

impl Round<'_> {
    /// Prepares all VMs that no VM of an earlier source shadows.
    pub fn prepare(&mut self, mut vms: Vms) {
        self.add_unavailable(&mut vms);
        // The links of packages that were built elsewhere cannot change, so these VMs come
        // before those that take ids which are free.
        let is_runner = |vms: &[FoundVm]| matches!(vms, [FoundVm { place: Place::Runner(_), .. }, ..]);
        let blocked = block::certain(&vms);
        let (first, rest): (Vec<_>, Vec<_>) = vms.into_iter().partition(|(_, vms)| is_runner(vms));
        // VMs that cannot run in any case take what a source can have of leases from no other.
        let (last, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(name, _)| blocked.contains(name));
        for (name, vms) in first.into_iter().chain(rest).chain(last) {
            let mut by: Option<SourceName> = None;
            for FoundVm { source, place } in vms {
                let directory = place.shown();
                let state = match &by {
                    Some(by) => VmState::Shadowed { by: by.clone() },
                    None => self.state_of(VmId { source: source.clone(), name: name.clone() }, place),
                };
                by.get_or_insert_with(|| source.clone());
                self.vms.push(CatalogVm { name: name.clone(), source, directory, state });
            }
        }
        // A stable sort: those of one name stay in the order of their sources.
        self.vms.sort_by(|a, b| a.name.cmp(&b.name));
        for vm in &mut self.vms {
            let id = vm.id();
            // No two VMs may have one user id in a catalog.
            if let VmState::Unavailable { last, .. } = &mut vm.state
                && last.as_ref().is_some_and(|last| self.leasing.is_anothers(&id, last.uid))
            {
                *last = None;
            }
        }
    }

    /// Adds the VMs that the last catalog has of sources that cannot be read now, so
    /// that no VM of a later source takes their names.
    fn add_unavailable(&self, vms: &mut Vms) {
        for CatalogVm { name, source, directory, state } in
            self.before.catalog.iter().flat_map(|catalog| &catalog.vms)
        {
            let problem = self.sources.iter().find(|it| it.name == *source).and_then(|it| it.problem.clone());
            let Some(problem) = problem else { continue };
            let last = match state {
                VmState::Runnable(last) => Some(last.clone()),
                VmState::Unavailable { last, .. }
                | VmState::Broken { last, .. }
                | VmState::Blocked { last, .. } => last.clone(),
                VmState::Shadowed { .. } => None,
            };
            let place = Place::Catalog { directory: directory.clone(), last, problem };
            let of_name = vms.entry(name.clone()).or_default();
            of_name.push(FoundVm { source: source.clone(), place });
            // None is the configuration itself, which comes first.
            of_name.sort_by_key(|vm| self.sources.iter().position(|source| source.name == vm.source));
        }
    }

    /// What becomes of a VM by itself.
    fn state_of(&mut self, id: VmId, place: Place) -> VmState {
        let (vm, runnable) = match place {
            Place::Catalog { last, problem, .. } => {
                return VmState::Unavailable { problems: vec![problem], last };
            }
            Place::Directory(location, reading) => {
                let mut vm = Candidate::new(self.config, id, location.directory());
                let runnable = self.plan_directory(&mut vm, &location, reading);
                (vm, runnable)
            }
            Place::Runner(path) => {
                let mut vm = Candidate::new(self.config, id, path);
                let runnable = self.take_runner(&mut vm);
                (vm, runnable)
            }
        };
        let Candidate { id, problems, .. } = vm;
        let problems = problems.into_sorted();
        let state = match runnable {
            Some(runnable) => VmState::Runnable(runnable),
            None => VmState::Broken { problems: CatalogProblem::errors(&problems), last: None },
        };
        self.of_sources.add(&id.source, problems);
        state
    }

    /// Plans a VM that was read from its directory.
    fn plan_directory(
        &mut self,
        vm: &mut Candidate,
        location: &Location,
        reading: Reading,
    ) -> Option<Runnable> {
        vm.problems.extend(reading.problems.into_sorted());
        vm.unchanged = reading.unchanged;
        self.check_folder(vm);
        let mut choices = self.choices(&vm.settings);
        let find = || planning::wayland_problem(location, choices.hypervisor, self.host.shows_windows);
        let no_windows = if reading.wayland { find() } else { None };
        vm.problems.extend(no_windows.clone());
        let no_uplink = match choices.uplink {
            Some(_) => planning::uplink_problem(&vm.path, choices.hypervisor, self.host.has_vhost_user),
            None => None,
        };
        vm.problems.extend(no_uplink.clone());
        let Some(definition) = reading.definition else {
            vm.problems.extend(planning::check_choices(&choices, &vm.path).into_sorted());
            return None;
        };
        // Before all that costs more.
        self.leasing.check_quota(vm)?;
        choices.links = self.leasing.links(vm, &definition);
        let plan = match planning::make(&definition, &choices) {
            Ok(plan) => plan,
            Err(problems) => {
                vm.problems.extend(problems.into_sorted());
                return None;
            }
        };
        if no_windows.or(no_uplink).is_some() {
            return None;
        }
        for share in &plan.shares {
            self.apart.check(Path::new(&share.source), &vm.path.join(&share.entry), &mut vm.problems);
        }
        let (name, files) = match self.known.package_name(&vm.id, &plan.to_manifest()) {
            Some(name) => (name, Files::Planned(Box::new(plan.clone()))),
            None => {
                let package = Package::of(&plan);
                (package.store_name(&plan.name), Files::Laid(package))
            }
        };
        let place =
            if self.host.nix_store.is_some() { nix_store::place(&name) } else { PackagePlace::Here(name) };
        let built = Built::new(&plan, place, Some(files), vm.path.join("providers/net"));
        self.accept(vm, &plan, definition.stamps, built)
    }

    /// Takes a VM into the round as one that can run by itself, unless something in
    /// its surroundings prevents that.
    pub(super) fn accept(
        &mut self,
        vm: &mut Candidate,
        plan: &Plan,
        files: Vec<FileStamp>,
        built: Built,
    ) -> Option<Runnable> {
        let uid = self.leasing.uid(vm)?;
        if self.host.for_units {
            if !vm.unchanged || !self.known.was_readable(&plan.definition, uid) {
                access::check(plan, uid, &mut vm.problems);
                let is_readable = !vm.problems.has_errors() && rustix::process::geteuid().is_root();
                self.known.readable(&plan.definition, is_readable.then_some(uid));
            }
            pci::check_present(Path::new(pci::SYS), &plan.pci_devices, &mut vm.problems);
            check_vcpus(plan.vcpus, vm);
        }
        if vm.problems.has_errors() {
            return None;
        }
        if vm.settings.cluster == Some(true) && vm.settings.uid.is_none() {
            self.pins.of_shares(&vm.id, plan, uid);
        }
        let wayland = plan.wayland.is_some().then(|| self.windows(vm));
        let runnable = Runnable {
            uid,
            hypervisor: plan.hypervisor,
            package: built.place.clone(),
            autostart: vm.settings.autostart.unwrap_or(false),
            restart_if_changed: vm.settings.restart_if_changed.unwrap_or(false),
            cluster: vm.settings.cluster.unwrap_or(false),
            links: plan.interfaces.iter().map(|it| CatalogLink::new(&it.provider, it.link)).collect(),
            devices: plan.pci_devices.clone(),
            uplink: plan.uplink.as_ref().map(|uplink| CatalogUplink { ports: uplink.ports.clone() }),
            wayland,
            files,
        };
        self.built.insert(vm.id.name.clone(), built);
        Some(runnable)
    }

    fn choices(&self, settings: &Settings) -> Choices {
        let hypervisor = settings.hypervisor.unwrap_or(HypervisorName::CloudHypervisor);
        let accelerator = settings.accel.and_then(AcceleratorChoice::chosen);
        Choices {
            hypervisor,
            architecture: self.host.architecture,
            memory_mib: settings.memory.unwrap_or(planning::DEFAULT_MEMORY_MIB),
            vcpus: settings.vcpus.unwrap_or(1),
            accelerator: planning::accelerator(hypervisor, accelerator, self.host.accelerator),
            tools: self.host.tools.clone(),
            link_ports: settings.link_ports.unwrap_or(planning::DEFAULT_LINK_PORTS),
            links: BTreeMap::new(),
            devices: settings.devices.clone(),
            guest_owners: settings.guest_owners(),
            uplink: (settings.uplink == Some(true)).then(|| settings.ports.clone()),
            wayland_memory_mib: settings.wayland_memory.unwrap_or(planning::DEFAULT_WAYLAND_MEMORY_MIB),
        }
    }

    /// Checks that the VM's folder in the state directory is the program's, or can be.
    pub(super) fn check_folder(&self, vm: &mut Candidate) {
        let folder = self.host.state.vm(&vm.id.name);
        match self.host.state.is_anothers(&vm.id.name) {
            Ok(true) => vm.problems.error(
                folder,
                format!(
                    "belongs to a VM that another program has installed, and {} cannot replace it",
                    vm.id
                ),
                "remove that VM, or rename one of the two",
            ),
            Ok(false) => vm.problems.extend(trusted::folder(&folder).err()),
            Err(error) => vm.problems.push(unreadable(&folder)(error)),
        }
    }
}

/// Notes that a VM has more virtual processors than this host has processors.
fn check_vcpus(vcpus: u16, vm: &mut Candidate) {
    let Ok(host) = std::thread::available_parallelism() else { return };
    if usize::from(vcpus) > host.get() {
        vm.problems.note(
            &vm.path,
            format!("has {vcpus} virtual processors, and this host {host}, which makes it slower"),
            format!("set vcpus = {host} or less"),
        );
    }
}
