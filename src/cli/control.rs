// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum start`, `stop` and `restart`

use clap::Args;

use super::vms::Vms;
use super::{Exit, StateArgs, report};
use crate::name::VmName;
use crate::printable::printable;
use crate::systemd;

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The VMs' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(verb: &str, args: &ControlArgs) -> Exit {
    let vms = Vms::of(&args.state.state_dir);
    let names: Vec<_> = args.names.iter().map(|name| vms.usable(name)).collect();
    if let Some(exit) = names.iter().find_map(|name| name.as_ref().err()) {
        return *exit;
    }
    let names: Vec<_> = names.into_iter().flatten().collect();
    match systemd::control(verb, &names) {
        Ok(true) => Exit::Fine,
        Ok(false) => {
            explain(&names);
            Exit::Host
        }
        Err(error) => {
            report::line(&format!("systemctl cannot be started: {error}"));
            Exit::Host
        }
    }
}

/// Says of the VMs that failed what their supervisors said last.
fn explain(names: &[VmName]) {
    let units: Vec<_> = names.iter().map(systemd::unit).collect();
    let found = systemd::status(&units).unwrap_or_default();
    for (name, status) in names.iter().filter_map(|name| Some((name, found.get(&systemd::unit(name))?))) {
        if matches!(status.active.as_str(), "failed" | "inactive" | "activating") {
            let why = if status.text.is_empty() { "it did not start" } else { &status.text };
            report::line(&format!("{name}: {}", printable(why)));
            report::line(&format!("{name}: microvm-spectrum log --all {name} says more"));
        }
    }
}
