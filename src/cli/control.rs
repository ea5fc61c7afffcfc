// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum start`, `stop` and `restart`

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::completion::vm_names;
use super::{Exit, StateArgs, fail};
use crate::system::control::{Verb, control};

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The VMs' names
    #[arg(required_unless_present = "all", value_name = "NAME", add = ArgValueCompleter::new(vm_names))]
    names: Vec<String>,

    /// Take every VM: start all that can run, stop or restart all that run
    #[arg(long, conflicts_with = "names")]
    all: bool,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(verb: Verb, args: &ControlArgs) -> anyhow::Result<Exit> {
    let installed = args.state.installed();
    let mut names = match (args.all, verb) {
        (false, _) => Vec::new(),
        (true, Verb::Start) => installed.able_to_run(),
        (true, Verb::Stop | Verb::Restart) => installed.running(),
    };
    let mut exit = Exit::Fine;
    for name in &args.names {
        match installed.usable(name) {
            Ok(name) => names.push(name),
            Err(error) => exit = fail(&error.into()),
        }
    }
    if exit == Exit::Fine && !names.is_empty() {
        control(verb, &names)?;
    }
    Ok(exit)
}
