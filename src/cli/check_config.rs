// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum check-config`

use std::path::PathBuf;

use clap::Args;

use super::Exit;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct CheckConfigArgs {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &CheckConfigArgs) -> anyhow::Result<Exit> {
    Config::check(&args.file)?;
    Ok(Exit::Fine)
}
