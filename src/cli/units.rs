// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum units`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{Exit, StateArgs, absolute};
use crate::host::units::{self, UnitPaths};

#[derive(Debug, Args)]
pub(super) struct UnitsArgs {
    /// Where to write them: the lib directory of a prefix, such as /usr/local/lib
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    #[command(flatten)]
    state: StateArgs,

    /// The path of this program when it is installed [default: where it is now]
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    program: Option<PathBuf>,
}

pub(super) fn run(args: &UnitsArgs) -> anyhow::Result<Exit> {
    let program = args.program.clone().map_or_else(std::env::current_exe, Ok);
    let program = program.context("this program cannot find itself; name it with --program")?;
    let paths = UnitPaths::new(&program, &args.state.state_dir)?;
    units::write(&paths, &args.output).map_err(|(path, error)| {
        anyhow::Error::from(error).context(format!("{} cannot be written", path.display()))
    })?;
    Ok(Exit::Fine)
}
