// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum start`, `stop` and `restart`

use clap::Args;

use super::{Exit, StateArgs, fail};
use crate::system::control::{Verb, control};

#[derive(Debug, Args)]
pub(super) struct ControlArgs {
    /// The VMs' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(verb: Verb, args: &ControlArgs) -> anyhow::Result<Exit> {
    let installed = args.state.installed();
    let (mut names, mut exit) = (Vec::new(), Exit::Fine);
    for name in &args.names {
        match installed.usable(name) {
            Ok(name) => names.push(name),
            Err(error) => exit = fail(&error.into()),
        }
    }
    if exit == Exit::Fine {
        control(verb, &names)?;
    }
    Ok(exit)
}
