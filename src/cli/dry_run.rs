// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync --dry-run`: what would be done.

use super::report;
use crate::host::apply::Jobs;
use crate::host::units;
use crate::state::directory::StateDirectory;
use crate::sync::{Change, Synced, changes};
use crate::system::systemd;

/// Prints a line for each VM that would change, and for each that systemd would start or stop.
pub(super) fn print(synced: &Synced, state: &StateDirectory, with_systemd: bool) -> anyhow::Result<()> {
    let catalog = &synced.catalog;
    let changes = changes(synced.before.as_ref(), catalog);
    let mut lines: Vec<_> = changes
        .iter()
        .map(|(vm, change)| match change {
            Change::Install => format!("install {vm}"),
            Change::Change => format!("change {vm}"),
            Change::Update => format!("update {vm}"),
            Change::List(state) => format!("list {vm} as {state}"),
            Change::Remove => format!("remove {vm}"),
        })
        .collect();
    if with_systemd {
        let jobs = Jobs::new(catalog, state, &units::autostarted());
        lines.extend(jobs.stop.iter().map(|vm| format!("stop {vm}")));
        lines.extend(jobs.start.iter().map(|name| format!("start {}", systemd::unit(name))));
        lines.extend(jobs.restart.iter().map(|vm| format!("restart {vm}")));
    }
    if lines.is_empty() {
        let what = if synced.changed { "write a new catalog" } else { "nothing to do" };
        lines.push(what.to_owned());
    }
    report::to_stdout("the plan", |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}
