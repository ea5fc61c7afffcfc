// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What VMs do now: what the catalog, systemd and the records of running VMs say
//! together.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::base::name::{SourceName, VmName};
use crate::base::printable::Printable;
use crate::link::taps::DEAD_LINK;
use crate::plan::runtime::is_bound_at;
use crate::state::catalog::{CatalogLease, CatalogVm, VmState};
use crate::state::directory::wayland_socket;
use crate::state::installed::Installed;
use crate::state::started::Started;
use crate::system::systemd::{self, UnitStatus};
use crate::system::trust;

/// What a VM does now, or why it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// It runs.
    Running,
    /// systemd starts it.
    Starting,
    /// systemd stops it.
    Stopping,
    /// It can run and does not.
    Stopped,
    /// It has failed, and systemd will start it again.
    Restarting,
    /// It has failed, or could not start because a unit that it requires has failed.
    Failed,
    /// Its directory or its settings have errors.
    Broken,
    /// A VM that provides its network cannot run.
    Blocked,
    /// Its source cannot be read now.
    Unavailable,
    /// An earlier source has a VM of the same name.
    Shadowed,
    /// It is in no source any more and keeps its leases.
    Removed,
    /// systemd does not say.
    Unknown,
}

impl Condition {
    fn of(status: &UnitStatus) -> Self {
        match (status.active.as_str(), status.sub.as_str()) {
            ("active" | "reloading", _) => Self::Running,
            ("activating", "auto-restart") => Self::Restarting,
            ("activating", _) => Self::Starting,
            ("deactivating", _) => Self::Stopping,
            ("" | "inactive" | "failed", _) if status.has_job => Self::Starting,
            ("failed", _) => Self::Failed,
            _ if status.failed.is_some() => Self::Failed,
            _ => Self::Stopped,
        }
    }

    /// Whether another VM runs under this one's name, if any does.
    fn is_anothers(self) -> bool {
        matches!(self, Self::Shadowed | Self::Removed)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One VM, for people and programs. All texts are printable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmStatus {
    /// Its name.
    pub name: VmName,
    /// What it does.
    pub state: Condition,
    /// Why its next start would run something else than runs now.
    pub stale: Vec<Printable>,
    /// Why it is in that state, if there is more to say.
    pub detail: Option<Printable>,
    /// The hypervisor that runs it.
    pub hypervisor: Option<Printable>,
    /// Its source, unless others installed it.
    pub source: Option<SourceName>,
    /// The addresses that its guest takes on its links.
    pub addresses: Vec<Ipv4Addr>,
    /// Its user id.
    pub uid: Option<u32>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether the cluster decides which host runs it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
    /// Its windows, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<WindowsStatus>,
}

/// Where a VM shows its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WindowsStatus {
    /// The user id of the session.
    pub user: Option<u32>,
    /// Whether a compositor is there for them, while the VM runs and if this user may know.
    pub compositor: Option<bool>,
}

/// The installed VMs by name; with `all`, also shadowed VMs and removed ones that
/// keep their leases.
pub fn of_installed(installed: &Installed, all: bool) -> Vec<VmStatus> {
    let vms = installed.catalog.iter().flat_map(|catalog| &catalog.vms);
    let leases = installed.catalog.iter().flat_map(|catalog| &catalog.leases).filter(|_| all);
    let mut found: Vec<_> = vms
        .map(VmStatus::of_catalog)
        .filter(|vm| all || vm.state != Condition::Shadowed)
        .chain(installed.others().into_iter().map(|name| VmStatus::of_other(name, installed)))
        .chain(leases.map(VmStatus::of_lease))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let mut asked: Vec<_> = found.iter_mut().filter(|vm| !vm.state.is_anothers()).collect();
    if !asked.is_empty()
        && let Ok(units) = systemd::loaded()
    {
        for vm in &mut asked {
            vm.apply(units.get(&vm.name).unwrap_or(&UnitStatus::default()), installed);
        }
    }
    found
}

impl VmStatus {
    /// One of the installed VMs, and what systemd says of its unit.
    pub fn of_vm(installed: &Installed, name: &VmName) -> (Self, UnitStatus) {
        let vm = installed.catalog.as_ref().and_then(|catalog| catalog.find(name));
        let mut status = match vm {
            Some(vm) => Self::of_catalog(vm),
            None => Self::of_other(name.clone(), installed),
        };
        let Ok(mut units) = systemd::status([name]) else { return (status, UnitStatus::default()) };
        let unit = units.remove(name).unwrap_or_default();
        status.apply(&unit, installed);
        (status, unit)
    }

    fn new(name: &VmName, source: Option<&SourceName>, state: Condition) -> Self {
        Self {
            name: name.clone(),
            state,
            stale: Vec::new(),
            detail: None,
            hypervisor: None,
            source: source.cloned(),
            addresses: Vec::new(),
            uid: None,
            autostart: false,
            cluster: false,
            windows: None,
        }
    }

    fn of_catalog(vm: &CatalogVm) -> Self {
        let status = |state| Self::new(&vm.name, Some(&vm.source), state);
        let first = vm.problems().first();
        let cause = first.map(|problem| problem.cause.clone());
        match &vm.state {
            VmState::Runnable(runnable) => Self {
                hypervisor: Some(Printable::composed(runnable.hypervisor.to_string())),
                addresses: runnable.links.iter().map(|link| link.ipv4).collect(),
                uid: Some(runnable.uid),
                autostart: runnable.autostart,
                cluster: runnable.cluster,
                windows: runnable.wayland.map(|it| WindowsStatus { user: it.user, compositor: None }),
                ..status(Condition::Unknown)
            },
            VmState::Broken { .. } => Self {
                detail: first
                    .map(|problem| Printable::composed(format!("{}: {}", problem.path, problem.cause))),
                ..status(Condition::Broken)
            },
            VmState::Blocked { .. } => Self { detail: cause, ..status(Condition::Blocked) },
            VmState::Unavailable { last, .. } => Self {
                detail: cause,
                uid: last.as_ref().map(|last| last.uid),
                ..status(Condition::Unavailable)
            },
            VmState::Shadowed { by } => Self {
                detail: Some(Printable::composed(format!("by the VM of that name in {by}"))),
                ..status(Condition::Shadowed)
            },
        }
    }

    /// A VM that is not in the catalog.
    fn of_other(name: VmName, installed: &Installed) -> Self {
        // Root reads it, so only root may have put it there.
        let path = trust::resolve(&installed.package(&name).join("share/microvm/hypervisor"));
        let hypervisor = path.ok().and_then(|path| std::fs::read_to_string(path).ok());
        let removed = !installed.state.is_anothers(&name).unwrap_or(true);
        Self {
            detail: removed.then(|| Printable::composed("was removed from its source and still runs")),
            hypervisor: hypervisor.map(|text| Printable::new(text.trim_end())),
            ..Self::new(&name, None, Condition::Unknown)
        }
    }

    fn of_lease(lease: &CatalogLease) -> Self {
        Self {
            detail: Some(Printable::composed(format!(
                "keeps its leases until microvm-spectrum forget {}",
                lease.vm
            ))),
            addresses: lease.links.iter().map(|link| link.ipv4).collect(),
            uid: lease.uid,
            ..Self::new(&lease.vm.name, Some(&lease.vm.source), Condition::Removed)
        }
    }

    /// Adds whether the windows of a VM that runs can be seen.
    fn look_for_compositor(&mut self) {
        let Some(windows) = &mut self.windows else { return };
        windows.compositor = is_bound_at(wayland_socket(&self.name));
        let text = match (windows.user, windows.compositor) {
            (_, Some(true)) => "windows: shown",
            (None, _) => "windows: for no user (wayland-user)",
            (Some(_), Some(false)) => "windows: no compositor",
            (Some(_), None) => "windows",
        };
        let before = self.detail.iter().map(|detail| format!("{}; ", detail.as_str())).collect::<String>();
        self.detail = Some(Printable::composed(format!("{before}{text}")));
    }

    /// Adds what systemd says. A VM that cannot run may still do so.
    fn apply(&mut self, unit: &UnitStatus, installed: &Installed) {
        let state = Condition::of(unit);
        if self.state != Condition::Unknown && !matches!(state, Condition::Running | Condition::Stopping) {
            return;
        }
        self.state = state;
        if matches!(state, Condition::Running | Condition::Starting)
            && let (Some(catalog), Ok(Some(started))) = (&installed.catalog, Started::of(&self.name))
        {
            self.stale = started.stale(catalog, &installed.state);
            if !self.stale.is_empty() {
                let why: Vec<_> = self.stale.iter().map(Printable::as_str).collect();
                self.detail = Some(Printable::composed(format!("stale: {}", why.join(", "))));
            }
        }
        if matches!(state, Condition::Running | Condition::Starting) {
            self.look_for_compositor();
        }
        let reason = unit.reason();
        let says_why = match state {
            Condition::Failed | Condition::Restarting => !reason.raw().is_empty(),
            Condition::Running => reason.raw().starts_with(DEAD_LINK),
            _ => false,
        };
        if says_why {
            self.detail = Some(reason.printable());
        }
    }
}
