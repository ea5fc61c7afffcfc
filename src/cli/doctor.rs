// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum doctor`

use std::path::PathBuf;

use clap::Args;

use super::report::{self, PrintableProblem};
use super::{Exit, StateArgs, find_tools, host_architecture};
use crate::base::problem::Problems;
use crate::config::{self, Config, Refused};
use crate::host::doctor::{self, Patient};
use crate::plan::HypervisorName;
use crate::state::installed::Installed;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(flatten)]
    state: StateArgs,
}

pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let architecture = host_architecture()?;
    let mut problems = Problems::default();
    // The examination goes on with what an empty configuration means.
    let config = Config::read(&args.config).unwrap_or_else(|Refused(found)| {
        problems.extend(found.into_sorted());
        Config::default()
    });
    let installed = Installed::read(&args.state.state_dir);
    problems.extend(installed.problem.clone());
    let tools = find_tools(config.tools.clone());
    problems.extend(
        doctor::examine(&Patient {
            installed: &installed,
            tools: &tools,
            architecture,
            hypervisor: config.defaults.hypervisor.unwrap_or(HypervisorName::CloudHypervisor),
            uids: (&config.uids, &args.config),
        })
        .into_sorted(),
    );
    let exit = Exit::of_problems(&problems);
    let found: Vec<_> = problems.into_sorted().iter().map(PrintableProblem::from).collect();
    report::to_stdout("the findings", |mut out| match found.is_empty() {
        true => writeln!(out, "this host lacks nothing"),
        false => report::write(&mut out, &found),
    })?;
    Ok(exit)
}
