// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum start`, `stop` and `restart`

use clap::Args;

use super::vms::Vms;
use super::{Exit, StateArgs, report};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::system::systemd;

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
        Ok(true) if verb == "stop" => Exit::Fine,
        Ok(true) => started(&names),
        Ok(false) => {
            if rustix::process::geteuid().is_root() {
                explain(&names);
            } else {
                report::line(&format!("only root may {verb} VMs, or whom polkit lets"));
            }
            Exit::Host
        }
        Err(error) => {
            report::line(&format!("systemctl cannot be started: {error}"));
            Exit::Host
        }
    }
}

/// Whether systemd has really started them, and not skipped one, which it takes
/// for success.
fn started(names: &[VmName]) -> Exit {
    let units: Vec<_> = names.iter().map(systemd::unit).collect();
    let found = systemd::status(&units).unwrap_or_default();
    let mut exit = Exit::Fine;
    for name in names {
        let skipped = |status: &systemd::UnitStatus| status.skipped && status.active != "active";
        if found.get(&systemd::unit(name)).is_some_and(skipped) {
            report::line(&format!(
                "{name} was not started: it is not installed as systemd knows it, or its user has no account \
                 (package libnss-systemd of Debian); microvm-spectrum sync makes both"
            ));
            exit = Exit::Host;
        }
    }
    exit
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
