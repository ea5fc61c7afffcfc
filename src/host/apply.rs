// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Has systemd do what `sync` decided.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{HostError, io_error, units};
use crate::base::name::{VmId, VmName};
use crate::base::printable::Printable;
use crate::base::versioned;
use crate::state::catalog::{Catalog, CatalogVm, VmState};
use crate::state::directory::StateDirectory;
use crate::state::started::Started;
use crate::system::{accounts, durable, systemd};

/// What systemd has done.
#[derive(Debug)]
pub enum Applied {
    /// Everything.
    Everything,
    /// Nothing: it is not running here. The VMs have their accounts.
    NoSystemd,
    /// Everything but what these errors name. Without an account or a reload, nothing
    /// else was tried.
    Except(Vec<HostError>),
}

/// What a catalog asks for: the VMs that systemd stops, starts and restarts.
#[derive(Debug, Default)]
pub struct Jobs {
    /// Running VMs that were removed from their source. Those of a source that cannot be
    /// read now are not among them.
    stop: Vec<VmId>,
    /// VMs that start with the host, and did not before. The administrator may have
    /// stopped the others.
    start: Vec<VmId>,
    /// Stale VMs whose settings ask for a restart.
    restart: Vec<VmId>,
    /// The other stale VMs, and why they are.
    stale: Vec<(VmId, Vec<Printable>)>,
}

impl Jobs {
    /// What `catalog` asks for, where `autostarted` are the VMs that start with the host
    /// already.
    pub fn new(catalog: &Catalog, state: &StateDirectory, autostarted: &BTreeSet<VmName>) -> Self {
        // Other VMs were started from another state directory.
        let is_ours = |started: &Started| {
            std::fs::read_link(state.booted(&started.vm.name)).is_ok_and(|package| package == started.package)
        };
        let running: Vec<_> = Started::all().into_iter().filter(is_ours).collect();
        let exist: BTreeSet<_> = catalog.vms.iter().map(CatalogVm::id).collect();
        let unreadable: BTreeSet<_> =
            catalog.sources.iter().filter(|s| s.problem.is_some()).map(|source| &source.name).collect();
        let removed = |it: &&Started| !exist.contains(&it.vm) && !unreadable.contains(&it.vm.source);
        let may_restart = |state: &VmState| matches!(state, VmState::Runnable(it) if it.restart_if_changed);
        let restarts =
            |it: &VmId| catalog.find(&it.name).is_some_and(|vm| vm.id() == *it && may_restart(&vm.state));
        let all_stale = running.iter().map(|it| (it.vm.clone(), it.stale(catalog, state)));
        let (restart, stale): (Vec<_>, Vec<_>) =
            all_stale.filter(|(_, why)| !why.is_empty()).partition(|(vm, _)| restarts(vm));
        let starts = Self::autostarted(catalog);
        Self {
            stop: running.iter().filter(removed).map(|it| it.vm.clone()).collect(),
            start: starts.filter(|vm| !autostarted.contains(&vm.name)).map(CatalogVm::id).collect(),
            restart: restart.into_iter().map(|(vm, _)| vm).collect(),
            stale,
        }
    }

    fn autostarted(catalog: &Catalog) -> impl Iterator<Item = &CatalogVm> {
        catalog.runnable().filter(|(_, runnable)| runnable.autostart).map(|(vm, _)| vm)
    }

    /// A line for each VM that systemd stops, starts or restarts, and for each that
    /// `changed` and runs on as it was started.
    pub fn lines(&self, changed: impl Fn(&VmId) -> bool) -> Vec<(VmId, String)> {
        let job = |job: &'static str, vms: &[VmId]| {
            vms.iter().map(|vm| (vm.clone(), format!("{job} {vm}"))).collect::<Vec<_>>()
        };
        let stale = self.stale.iter().filter(|(vm, _)| changed(vm)).map(|(vm, why)| {
            let first = why.first().map(Printable::as_str).unwrap_or_default();
            (vm.clone(), format!("stale {vm}: {first}; it runs on until it is restarted"))
        });
        [job("stop", &self.stop), job("start", &self.start), job("restart", &self.restart), stale.collect()]
            .concat()
    }
}

/// Has systemd read the drop-ins of the current catalog, if it has `changed` or systemd
/// has read another one, and do the [`Jobs`] that follow. At `boot`, it starts all VMs
/// that start with the host. Returns the jobs that it has given to systemd, but those of
/// a boot.
pub fn apply(state: &StateDirectory, catalog: &Catalog, changed: bool, boot: bool) -> (Applied, Jobs) {
    let nothing = |applied| (applied, Jobs::default());
    for (vm, runnable) in catalog.runnable() {
        if let Err(error) = accounts::ensure(Path::new(accounts::DIRECTORY), &vm.id(), runnable.uid) {
            let what = format!("the account of {} cannot be made", vm.name);
            return nothing(Applied::Except(vec![io_error(what)(error)]));
        }
    }
    have_systemd_do(state, catalog, changed, boot)
}

/// Like [`apply()`], for a catalog whose VMs have accounts.
fn have_systemd_do(state: &StateDirectory, catalog: &Catalog, changed: bool, boot: bool) -> (Applied, Jobs) {
    let nothing = |applied| (applied, Jobs::default());
    if !systemd::is_running() {
        return nothing(Applied::NoSystemd);
    }
    let known = match Known::before(boot) {
        Ok(known) => known,
        Err(error) => return nothing(Applied::Except(vec![error])),
    };
    // Systemd may also have read an older catalog, when a sync was killed, or none, when
    // generators ran at boot before the state directory was mounted.
    let is_current = units::generation_of_systemd() == Some(catalog.generation);
    if (changed || !is_current)
        && let Err(error) = systemd::reload()
    {
        return nothing(Applied::Except(vec![io_error("systemd cannot read its units again")(error)]));
    }
    // No later sync does what fails here, so a job that fails does not stop the others.
    let (failed, done) = known.jobs(state, catalog, boot);
    (if failed.is_empty() { Applied::Everything } else { Applied::Except(failed) }, done)
}

/// Like [`apply()`], for what is installed, after a sync that could not install anything: a
/// mistake in the configuration, or a host that fails, stops no installed VM from running.
/// Returns nothing where no catalog can be used.
pub fn apply_installed(state: &StateDirectory, boot: bool) -> Option<Applied> {
    let catalog = Catalog::read(&state.catalog()).ok()?;
    Some(apply(state, &catalog, false, boot).0)
}

/// Like [`apply()`], for what is installed, after a sync that found everything as it was, the
/// accounts included.
pub fn apply_as_it_was(state: &StateDirectory, boot: bool) -> Option<(Applied, Jobs)> {
    if !systemd::is_running() {
        return Some((Applied::NoSystemd, Jobs::default()));
    }
    let catalog = Catalog::read(&state.catalog()).ok()?;
    Some(have_systemd_do(state, &catalog, false, boot))
}

/// Has systemd forget that units of removed VMs have failed, which nothing will start again.
fn reset_removed(catalog: &Catalog) {
    let exist: BTreeSet<_> = catalog.vms.iter().map(|vm| &vm.name).collect();
    let removed: BTreeSet<_> =
        catalog.leases.iter().map(|lease| &lease.vm.name).filter(|name| !exist.contains(name)).collect();
    if removed.is_empty() {
        return;
    }
    let failed = systemd::loaded()
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, unit)| removed.contains(name) && (unit.active == "failed" || unit.failed.is_some()));
    systemd::reset_failed(&failed.flat_map(|(name, _)| systemd::units_of(&name)).collect::<Vec<_>>());
}

/// Where the last sync that came to its end has recorded what it has asked of systemd.
const RECORD: &str = "/run/microvm-spectrum/applied.json";
/// The version of that record.
const VERSION: u32 = 1;

/// What systemd was asked for before. It is more than what systemd has read: a sync may
/// be killed when systemd has read a catalog, and before it has started anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    version: u32,
    /// The VMs that start with the host.
    autostarted: BTreeSet<VmName>,
    /// The units that watch sources.
    watched: BTreeSet<String>,
    /// The units that mount partitions, with their devices. The administrator may have
    /// unmounted these.
    partitions: BTreeSet<(String, String)>,
}

impl Known {
    /// What was recorded, or else what systemd has read.
    fn before(boot: bool) -> Result<Self, HostError> {
        let text = std::fs::read_to_string(RECORD).ok();
        let mut known = match text.and_then(|text| versioned::parse(&text, "a record", VERSION).ok()) {
            Some(known) => known,
            None => {
                let known = Self {
                    version: VERSION,
                    // At boot, none was started yet.
                    autostarted: if boot { BTreeSet::new() } else { units::autostarted() },
                    watched: units::watched(),
                    partitions: if boot { BTreeSet::new() } else { units::partitions() },
                };
                known.record()?;
                known
            }
        };
        if boot {
            // Nothing was unmounted yet.
            known.partitions.clear();
        }
        Ok(known)
    }

    fn record(&self) -> Result<(), HostError> {
        let path = Path::new(RECORD);
        let write = |text: String| {
            path.parent().map_or(Ok(()), durable::ensure_directory)?;
            durable::replace_file_in_memory(path, &text, 0o644)
        };
        versioned::text_of(self).and_then(write).map_err(io_error(format!("{RECORD} cannot be written")))
    }

    /// Has systemd do what a catalog asks for that it has read; returns what failed, and
    /// the jobs that did not.
    fn jobs(&self, state: &StateDirectory, catalog: &Catalog, boot: bool) -> (Vec<HostError>, Jobs) {
        let mut jobs = Jobs::new(catalog, state, &self.autostarted);
        let units = |vms: &[VmId]| vms.iter().map(|vm| systemd::unit(&vm.name)).collect::<Vec<_>>();
        let now = Self {
            version: VERSION,
            autostarted: Jobs::autostarted(catalog).map(|vm| vm.name.clone()).collect(),
            watched: units::watched(),
            partitions: units::partitions(),
        };
        let unwatched: Vec<_> = self.watched.difference(&now.watched).cloned().collect();
        let mut start: Vec<_> = now.watched.difference(&self.watched).cloned().collect();
        start.extend(units::to_start(catalog, &self.partitions));
        if boot {
            start.push(units::TARGET.to_owned());
            jobs.start.clear();
        } else {
            start.extend(units(&jobs.start));
        }
        let mut failed = Vec::new();
        let mut run = |units: &[String], job: fn(&[String]) -> io::Result<()>, what: &str| {
            let error = if units.is_empty() { None } else { job(units).map_err(io_error(what)).err() };
            let fails = error.is_some();
            failed.extend(error);
            fails
        };
        if run(&units(&jobs.stop), systemd::stop_soon, "removed VMs cannot be stopped") {
            jobs.stop.clear();
        }
        if !unwatched.is_empty() {
            // Systemd has no unit any more for one of these that is not running.
            let _ = systemd::stop_soon(&unwatched);
            systemd::reset_failed(
                &unwatched.iter().flat_map(|unit| units::with_scans(unit)).collect::<Vec<_>>(),
            );
        }
        reset_removed(catalog);
        if run(&start, systemd::start_soon, "VMs cannot be started") {
            jobs.start.clear();
        }
        if run(&units(&jobs.restart), systemd::restart_soon, "changed VMs cannot be restarted") {
            jobs.restart.clear();
        }
        if now != *self {
            failed.extend(now.record().err());
        }
        (failed, jobs)
    }
}
