// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum sync`

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use clap::Args;

use super::progress::Progress;
use super::{
    Exit, StateArgs, fail, find_tools, has_vhost_user, host_architecture, report, said, shows_windows,
    usable_accelerator,
};
use crate::base::problem::Problems;
use crate::config::{self, Config};
use crate::host::apply::{Applied, Jobs, apply, apply_as_it_was, apply_installed};
use crate::host::units;
use crate::hypervisor::kvm_record;
use crate::state::directory::StateDirectory;
use crate::state::nix_store::NixStore;
use crate::sync::{self, Ended, Rounds, Surroundings};

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(flatten)]
    state: StateArgs,

    /// Write the state directory alone: create no accounts, and do nothing with systemd
    #[arg(long)]
    no_systemd: bool,

    /// Start the VMs that start with the host, as at boot
    #[arg(long, conflicts_with = "no_systemd")]
    start: bool,

    /// Put the packages into the Nix store of this host, as `nix-store = true` in the configuration
    #[arg(long)]
    nix_store: bool,

    /// Print what it would say, and do nothing
    #[arg(long, conflicts_with = "start")]
    dry_run: bool,

    /// Print the link and user ids of the cluster's VMs that may differ on its other hosts, as lines for the
    /// configuration of all hosts, and do nothing
    #[arg(long, conflicts_with_all = ["start", "dry_run"])]
    print_pins: bool,
}

pub(super) fn run(args: &SyncArgs) -> anyhow::Result<Exit> {
    let state = StateDirectory::at(&args.state.state_dir);
    sync(args, &state).or_else(|error| {
        let exit = fail(&error);
        if !args.no_systemd && !args.dry_run && !args.print_pins {
            apply_installed(&state, args.start).map(report_applied);
        }
        Ok(exit)
    })
}

/// Syncs; after an error, nothing was installed.
fn sync(args: &SyncArgs, state: &StateDirectory) -> anyhow::Result<Exit> {
    let architecture = host_architecture()?;
    let config = Config::read(&args.config)?;
    let tools = find_tools(config.tools.clone());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dry_run = args.dry_run || args.print_pins;
    let record = (!args.no_systemd && !dry_run).then_some(Path::new(kvm_record::PATH));
    let (accelerator, windows, vhost_user) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
    let progress = Progress::new("reading VMs");
    let host = Surroundings {
        state,
        architecture,
        tools: &tools,
        accelerator: &|| *accelerator.get_or_init(|| usable_accelerator(&tools, architecture, record)),
        shows_windows: &|| windows.get_or_init(|| shows_windows(&tools, architecture)).clone(),
        has_vhost_user: &|| *vhost_user.get_or_init(|| has_vhost_user(&tools)),
        for_units: !args.no_systemd,
        nix_store: (args.nix_store || config.nix_store).then(|| NixStore::find(&path)).transpose()?,
        progress: &|done, all| progress.show(done, all),
    };
    if dry_run {
        let synced = sync::dry_run(&config, &host);
        progress.clear();
        let synced = synced?;
        if args.print_pins {
            said::print(&synced.pins.lines())?;
            return Ok(Exit::Fine);
        }
        let jobs = match host.for_units {
            true => Jobs::new(&synced.catalog, state, &units::autostarted()),
            false => Jobs::default(),
        };
        let mut lines = said::lines(&synced, &jobs);
        if lines.is_empty() {
            lines.push("nothing to do".to_owned());
        }
        said::print(&lines)?;
        return Ok(finish(synced.problems));
    }
    let (mut exit, mut last, mut lines) = (Exit::Fine, Ok(Problems::default()), Vec::new());
    for ended in Rounds::new(&config, &host) {
        progress.clear();
        let given = match &ended {
            _ if args.no_systemd => None,
            Ok(Ended::Synced(synced)) => Some(apply(state, &synced.catalog, synced.changed, args.start)),
            Ok(Ended::AsItWas(_)) => apply_as_it_was(state, args.start),
            Err(_) => None,
        };
        let jobs = given.map(|(applied, jobs)| {
            exit = report_applied(applied);
            jobs
        });
        let jobs = jobs.unwrap_or_default();
        last = ended.map(|ended| match ended {
            Ended::Synced(synced) => {
                lines.extend(said::lines(&synced, &jobs));
                synced.problems
            }
            Ended::AsItWas(problems) => {
                lines.extend(said::of_jobs(&jobs));
                problems
            }
        });
    }
    let printed = said::print(&lines);
    // An error of systemd is one of the host, which outweighs those of the input.
    let of_problems = finish(last?);
    printed?;
    Ok(if exit == Exit::Fine { of_problems } else { exit })
}

/// Prints the problems of a sync, and returns how the program ends after them.
fn finish(problems: Problems) -> Exit {
    let exit = Exit::of_problems(&problems);
    report::to_stderr(&problems.into_sorted());
    exit
}

/// Prints what systemd could not do.
fn report_applied(applied: Applied) -> Exit {
    match applied {
        Applied::Everything => Exit::Fine,
        Applied::NoSystemd => {
            report::line("systemd is not running here: the VMs are installed and not started");
            Exit::Fine
        }
        Applied::Except(errors) => {
            errors.into_iter().for_each(|error| report::error(&error.into()));
            Exit::Host
        }
    }
}
