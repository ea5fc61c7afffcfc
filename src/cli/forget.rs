// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum forget`

use std::path::Path;

use clap::Args;

use super::{Exit, StateArgs, fail, report};
use crate::base::name::SourceName;
use crate::state::directory::StateDirectory;
use crate::sync::{self, ForgetError};
use crate::system::accounts;

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// Removed VMs: SOURCE/NAME, or NAME where only one has it
    #[arg(required_unless_present = "source", value_name = "NAME")]
    names: Vec<String>,

    /// All VMs that were removed from this source
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Vec<SourceName>,

    #[command(flatten)]
    state: StateArgs,

    /// Change the state directory alone: keep the VMs' accounts
    #[arg(long)]
    no_systemd: bool,
}

fn source(text: &str) -> Result<SourceName, String> {
    SourceName::new(text).map_err(|error| error.to_string())
}

pub(super) fn run(args: &ForgetArgs) -> Exit {
    let state = StateDirectory::at(&args.state.state_dir);
    let accounts = (!args.no_systemd).then_some(Path::new(accounts::DIRECTORY));
    match sync::forget(&state, &args.names, &args.source, accounts) {
        Ok(forgotten) => {
            forgotten.iter().for_each(|vm| report::line(&format!("{vm} is forgotten")));
            Exit::Fine
        }
        Err(errors) => errors.into_iter().fold(Exit::Fine, |exit, error| {
            let one = match error {
                ForgetError::State(problem) => fail(&problem.into()),
                other => fail(&other.into()),
            };
            if exit == Exit::Host { exit } else { one }
        }),
    }
}
