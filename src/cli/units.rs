// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum units`

use std::path::PathBuf;

use clap::Args;

use super::{Exit, StateArgs, absolute, report};
use crate::base::printable::printable;
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

pub(super) fn run(args: &UnitsArgs) -> Exit {
    let program = match args.program.clone().map_or_else(std::env::current_exe, Ok) {
        Ok(program) => program,
        Err(error) => {
            report::line(&format!("this program's path is unknown ({error}): use --program"));
            return Exit::Host;
        }
    };
    let paths = match UnitPaths::new(&program, &args.state.state_dir) {
        Ok(paths) => paths,
        Err(error) => {
            report::line(&printable(error.to_string()));
            return Exit::Usage;
        }
    };
    match units::write(&paths, &args.output) {
        Ok(()) => Exit::Fine,
        Err((path, error)) => {
            report::line(&printable(format!("{} cannot be written: {error}", path.display())));
            Exit::Host
        }
    }
}
