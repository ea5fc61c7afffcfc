// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What systemd is told after a `sync`.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::{Exit, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::host::units;
use crate::state::catalog::{Catalog, VmState};
use crate::state::directory::StateDirectory;
use crate::state::started::Started;
use crate::sync::Synced;
use crate::system::accounts;
use crate::system::systemd;

/// Has systemd read the drop-ins of the new generation, and start and stop what
/// autostart and removal ask for.
pub(super) fn tell(synced: &Synced, state: &StateDirectory, start: bool) -> Exit {
    let catalog = &synced.catalog;
    for (vm, runnable) in catalog.runnable() {
        if let Err(error) = accounts::ensure(Path::new(accounts::DIRECTORY), &vm.id(), runnable.uid) {
            return fail(&format!("the account of {} cannot be made", vm.name), &error);
        }
    }
    if !systemd::is_running() {
        report::line("systemd does not run here, so nothing was told to it");
        return Exit::Fine;
    }
    // Before systemd reads them anew.
    let known = units::autostarted();
    let watched = units::watched();
    // At boot nobody has unmounted anything yet.
    let mounted = if start { BTreeSet::new() } else { units::partitions() };
    // What systemd has read may be older than the last sync: it ended before it said so,
    // or the state directory was not mounted yet when generators ran at boot.
    let current = units::generation_of_systemd() == Some(catalog.generation);
    if (synced.changed || !current)
        && let Err(error) = systemd::reload()
    {
        return fail("systemd cannot read its units again", &error);
    }
    let running = Started::all();
    // Systemd has read what is new now, so that nobody finds out later what was not
    // done: one thing that cannot be done keeps nothing else from it.
    let mut exit = Exit::Fine;
    let gone: Vec<_> =
        removed(&running, catalog, state).map(|started| systemd::unit(&started.vm.name)).collect();
    if !gone.is_empty()
        && let Err(error) = systemd::stop_soon(&gone)
    {
        exit = fail("removed VMs cannot be stopped", &error);
    }
    let now = units::watched();
    let unwatched: Vec<_> = watched.difference(&now).cloned().collect();
    if !unwatched.is_empty() {
        // One that does not run has nothing left by which systemd could load it.
        let _ = systemd::stop_soon(&unwatched);
    }
    let mut started: Vec<_> = now.difference(&watched).cloned().collect();
    started.extend(units::to_start(catalog, &mounted));
    if start {
        started.push(units::TARGET.to_owned());
    } else {
        started.extend(newly_started(catalog, &known));
    }
    if !started.is_empty()
        && let Err(error) = systemd::start_soon(&started)
    {
        exit = fail("VMs cannot be started", &error);
    }
    let restarted: Vec<_> =
        to_restart(&running, catalog, state).map(|started| systemd::unit(&started.vm.name)).collect();
    if !restarted.is_empty()
        && let Err(error) = systemd::restart_soon(&restarted)
    {
        exit = fail("changed VMs cannot be restarted", &error);
    }
    exit
}

fn fail(what: &str, error: &io::Error) -> Exit {
    report::line(&printable(format!("{what}: {error}")));
    Exit::Host
}

/// The running VMs of this state directory that are in no source any more. Of a
/// source that cannot be read now nobody can tell.
pub(super) fn removed<'a>(
    running: &'a [Started],
    catalog: &Catalog,
    state: &StateDirectory,
) -> impl Iterator<Item = &'a Started> {
    let there: BTreeSet<_> = catalog.vms.iter().map(crate::state::catalog::CatalogVm::id).collect();
    let away: BTreeSet<_> =
        catalog.sources.iter().filter(|s| s.problem.is_some()).map(|s| s.name.clone()).collect();
    running.iter().filter(move |started| {
        !there.contains(&started.vm) && !away.contains(&started.vm.source) && is_of(started, state)
    })
}

/// Whether a VM that runs was started from this state directory: there may be others.
fn is_of(started: &Started, state: &StateDirectory) -> bool {
    std::fs::read_link(state.booted(&started.vm.name)).is_ok_and(|package| package == started.package)
}

/// The running VMs that are no longer what they were started with, and whose
/// settings ask for a restart then.
pub(super) fn to_restart<'a>(
    running: &'a [Started],
    catalog: &Catalog,
    state: &StateDirectory,
) -> impl Iterator<Item = &'a Started> {
    running.iter().filter(|started| {
        let vm = catalog.find(&started.vm.name);
        let wanted = |state: &VmState| matches!(state, VmState::Runnable(r) if r.restart_if_changed);
        vm.is_some_and(|vm| vm.id() == started.vm && wanted(&vm.state))
            && is_of(started, state)
            && !started.stale(catalog, state).is_empty()
    })
}

/// The units of VMs that start with the host, but for those that systemd knows
/// as such: somebody may have stopped them.
pub(super) fn newly_started(catalog: &Catalog, known: &BTreeSet<VmName>) -> Vec<String> {
    let autostarted = catalog.runnable().filter(|(_, runnable)| runnable.autostart).map(|(vm, _)| &vm.name);
    autostarted.filter(|name| !known.contains(name)).map(systemd::unit).collect()
}
