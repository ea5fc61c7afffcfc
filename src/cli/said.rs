// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What `sync` says that it did, and with `--dry-run` what it would do: the same lines.

use super::report;
use crate::host::apply::Jobs;
use crate::sync::{Synced, changes, limited};

/// A line for each VM that changes, and for each that systemd starts or stops.
pub(super) fn lines(synced: &Synced, jobs: &Jobs) -> Vec<String> {
    let changes = changes(synced.before.as_ref(), &synced.catalog);
    let mut lines: Vec<_> = changes.iter().map(|(vm, change)| (vm.clone(), change.line(vm))).collect();
    lines.extend(jobs.lines(|vm| changes.iter().any(|(changed, _)| changed == vm)));
    let mut lines = limited(lines);
    if lines.is_empty() && synced.changed {
        lines.push("changed the catalog: its sources or its leases".to_owned());
    }
    lines
}

/// A line for each VM that systemd starts or stops, where none changes.
pub(super) fn of_jobs(jobs: &Jobs) -> Vec<String> {
    limited(jobs.lines(|_| false))
}

/// Prints these lines to standard output.
pub(super) fn print(lines: &[String]) -> anyhow::Result<()> {
    report::to_stdout("what changes", |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))
}
