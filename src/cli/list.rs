// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum list`

use std::io::{self, Write as _};

use clap::Args;
use serde::Serialize;

use super::vms::Vms;
use super::{Exit, StateArgs, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::state::catalog::{CatalogVm, VmState};
use crate::state::started::Started;
use crate::system::systemd::{self, UnitStatus};
use crate::system::trust;

/// The version of the JSON document that `--json` prints.
const LIST_VERSION: u32 = 1;
/// The longest explanation in the table, in characters.
const MAX_DETAIL: usize = 100;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// Show also VMs that are shadowed, and those that are gone and have leases
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct List {
    version: u32,
    vms: Vec<Row>,
}

/// One VM, as a person wants to see it.
#[derive(Serialize)]
struct Row {
    name: VmName,
    /// `running`, `starting`, `stopping`, `stopped`, `restarting`, `failed`, `broken`, `blocked`,
    /// `unavailable`, `shadowed`, `removed` or `unknown`.
    state: String,
    /// Why it runs with something else than it would be started with now.
    stale: Vec<String>,
    /// Why it is in that state, if there is more to say.
    detail: Option<String>,
    hypervisor: Option<String>,
    /// The source, unless it was installed otherwise.
    source: Option<String>,
    addresses: Vec<String>,
    uid: Option<u32>,
    autostart: bool,
}

pub(super) fn run(args: &ListArgs) -> Exit {
    let vms = Vms::of(&args.state.state_dir);
    let mut rows = rows(&vms, args.all);
    tell_states(&mut rows, &vms);
    let printed = if args.json {
        let list = List { version: LIST_VERSION, vms: rows };
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &list).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        print_table(&rows)
    };
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            report::line(&format!("the list cannot be written: {error}"));
            Exit::Host
        }
        _ if vms.unusable => Exit::Input,
        _ => Exit::Fine,
    }
}

/// All VMs; the state is empty where systemd has to tell it.
fn rows(vms: &Vms, all: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let is_shown = |vm: &&CatalogVm| all || !matches!(vm.state, VmState::Shadowed { .. });
    for vm in vms.catalog.iter().flat_map(|catalog| &catalog.vms).filter(is_shown) {
        let mut row = Row {
            name: vm.name.clone(),
            state: String::new(),
            stale: Vec::new(),
            detail: None,
            hypervisor: None,
            source: Some(vm.source.to_string()),
            addresses: Vec::new(),
            uid: None,
            autostart: false,
        };
        match &vm.state {
            VmState::Runnable(runnable) => {
                row.hypervisor = Some(runnable.hypervisor.to_string());
                row.addresses = runnable.links.iter().map(|link| link.ipv4.to_string()).collect();
                row.uid = Some(runnable.uid);
                row.autostart = runnable.autostart;
            }
            VmState::Broken { problems } => {
                row.state = "broken".to_owned();
                row.detail = problems.first().map(|problem| format!("{}: {}", problem.path, problem.cause));
            }
            VmState::Blocked { problems, .. } => {
                row.state = "blocked".to_owned();
                row.detail = problems.first().map(|problem| problem.cause.clone());
            }
            VmState::Unavailable { problems, last } => {
                row.state = "unavailable".to_owned();
                row.detail = problems.first().map(|problem| problem.cause.clone());
                row.uid = last.as_ref().map(|last| last.uid);
            }
            VmState::Shadowed { by } => {
                row.state = "shadowed".to_owned();
                row.detail = Some(format!("by the VM of that name in {by}"));
            }
        }
        rows.push(row);
    }
    for name in vms.others() {
        // Read by root, so that nobody else must have put it there.
        let path = trust::resolve(&vms.package(&name).join("share/microvm/hypervisor"));
        let hypervisor = path.ok().and_then(|path| std::fs::read_to_string(path).ok());
        let removed = !vms.state.is_anothers(&name);
        rows.push(Row {
            name,
            state: String::new(),
            stale: Vec::new(),
            detail: removed.then(|| "was removed from its source and still runs".to_owned()),
            hypervisor: hypervisor.map(|text| printable(text.trim_end())),
            source: None,
            addresses: Vec::new(),
            uid: None,
            autostart: false,
        });
    }
    if all {
        rows.extend(vms.catalog.iter().flat_map(|catalog| &catalog.leases).map(|lease| Row {
            name: lease.vm.name.clone(),
            state: "removed".to_owned(),
            stale: Vec::new(),
            detail: Some(format!("keeps its leases until microvm-spectrum forget {}", lease.vm)),
            hypervisor: None,
            source: Some(lease.vm.source.to_string()),
            addresses: lease.links.iter().map(|link| link.ipv4.to_string()).collect(),
            uid: lease.uid,
            autostart: false,
        }));
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Whether the VM called so is not the one in this row.
fn is_another(row: &Row) -> bool {
    matches!(row.state.as_str(), "shadowed" | "removed")
}

/// Asks systemd for the states of those that can run, and of broken ones that still do.
fn tell_states(rows: &mut [Row], vms: &Vms) {
    let units: Vec<_> =
        rows.iter().filter(|row| !is_another(row)).map(|row| systemd::unit(&row.name)).collect();
    let found = systemd::status(&units).unwrap_or_default();
    for row in rows.iter_mut().filter(|row| !is_another(row)) {
        let Some(UnitStatus { active, sub, text, .. }) = found.get(&systemd::unit(&row.name)) else {
            if row.state.is_empty() {
                row.state = "unknown".to_owned();
            }
            continue;
        };
        let state = match (active.as_str(), sub.as_str()) {
            ("active" | "reloading", _) => "running",
            ("activating", "auto-restart") => "restarting",
            ("activating", _) => "starting",
            ("deactivating", _) => "stopping",
            ("failed", _) => "failed",
            _ => "stopped",
        };
        if row.state.is_empty() || matches!(state, "running" | "stopping") {
            row.state = state.to_owned();
            if matches!(state, "running" | "starting")
                && let (Some(catalog), Some(started)) = (&vms.catalog, Started::of(&row.name))
            {
                row.stale = started.stale(catalog, &vms.state);
                if !row.stale.is_empty() {
                    row.detail = Some(format!("stale: {}", row.stale.join(", ")));
                }
            }
            if matches!(state, "failed" | "restarting") && !text.is_empty() {
                row.detail = Some(printable(text));
            }
        }
    }
}

fn print_table(rows: &[Row]) -> io::Result<()> {
    let mut table = vec![["NAME", "STATE", "HYPERVISOR", "SOURCE", "ADDRESS", ""].map(str::to_owned)];
    for row in rows {
        let dash = || "-".to_owned();
        let addresses = row.addresses.join(",");
        let detail = row.detail.as_deref().unwrap_or_default();
        let mut shown: String = detail.chars().take(MAX_DETAIL).collect();
        if shown.len() < detail.len() {
            shown.push('…');
        }
        table.push([
            row.name.to_string(),
            row.state.clone(),
            row.hypervisor.clone().unwrap_or_else(dash),
            row.source.clone().unwrap_or_else(dash),
            if addresses.is_empty() { dash() } else { addresses },
            shown,
        ]);
    }
    let width = |column: usize| {
        table.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..6).map(width).collect();
    let mut out = io::stdout().lock();
    for line in &table {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
