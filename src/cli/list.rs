// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum list`

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::{Exit, StateArgs, report};
use crate::state::status::{self, VmStatus};

/// The version of the JSON document that `--json` prints.
const LIST_VERSION: u32 = 1;
/// The narrowest explanation on a terminal, in characters.
const MIN_DETAIL: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    state: StateArgs,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// Show also shadowed VMs, and removed ones that keep their leases
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct List<'a> {
    version: u32,
    vms: &'a [VmStatus],
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<Exit> {
    let installed = args.state.installed();
    let vms = status::of_installed(&installed, args.all);
    report::to_stdout("the list", |out| match args.json {
        true => {
            serde_json::to_writer_pretty(&mut *out, &List { version: LIST_VERSION, vms: &vms })?;
            writeln!(out)
        }
        false => print_table(out, &vms),
    })?;
    Ok(installed.problem.as_ref().map_or(Exit::Fine, Exit::of_problem))
}

/// Prints a table, which on a terminal has a line for each VM; nothing is cut elsewhere.
fn print_table(out: &mut dyn Write, vms: &[VmStatus]) -> io::Result<()> {
    let header = ["NAME", "STATE", "HYPERVISOR", "SOURCE", "ADDRESS", ""].map(str::to_owned);
    let table: Vec<_> = std::iter::once(header).chain(vms.iter().map(cells)).collect();
    let width = |column: usize| {
        table.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..5).map(width).collect();
    let before_detail: usize = widths.iter().map(|width| width + 2).sum();
    let room = terminal_width().map(|columns| columns.saturating_sub(before_detail).max(MIN_DETAIL));
    for [first @ .., detail] in &table {
        let cells: Vec<_> = first.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = format!("{}  {}", cells.join("  "), shortened(detail, room));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

fn shortened(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if text.chars().count() > room => {
            text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
        }
        _ => text.to_owned(),
    }
}

fn cells(vm: &VmStatus) -> [String; 6] {
    let dash = || "-".to_owned();
    let addresses: Vec<_> = vm.addresses.iter().map(ToString::to_string).collect();
    let cluster = vm.cluster.then(|| "cluster".to_owned());
    let details: Vec<_> = cluster.into_iter().chain(vm.detail.as_ref().map(ToString::to_string)).collect();
    [
        vm.name.to_string(),
        vm.state.to_string(),
        vm.hypervisor.as_ref().map_or_else(dash, ToString::to_string),
        vm.source.as_ref().map_or_else(dash, ToString::to_string),
        if addresses.is_empty() { dash() } else { addresses.join(",") },
        details.join("; "),
    ]
}
