// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum sync`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, StateArgs, find_tools, host_architecture, report, usable_accelerator};
use crate::accounts;
use crate::catalog::Catalog;
use crate::config::{self, Config};
use crate::printable::printable;
use crate::problem::Problems;
use crate::state_directory::StateDirectory;
use crate::sync::{self, Host, Synced};
use crate::systemd;
use crate::units;

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,

    #[command(flatten)]
    state: StateArgs,

    /// Only write the state directory: no accounts, and nothing is told to systemd
    #[arg(long)]
    no_systemd: bool,

    /// Start the VMs that start with the host, as at boot
    #[arg(long, conflicts_with = "no_systemd")]
    start: bool,
}

pub(super) fn run(args: &SyncArgs) -> Exit {
    let architecture = match host_architecture() {
        Ok(architecture) => architecture,
        Err(problem) => {
            report::to_stderr(&[problem]);
            return Exit::Host;
        }
    };
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            report::to_stderr(&problems.into_sorted());
            go_on_with_what_is_there(args);
            return Exit::Input;
        }
    };
    let state = StateDirectory::at(&args.state.state_dir);
    let tools = find_tools(config.tools.clone());
    let mut found = None;
    let mut accelerator = || *found.get_or_insert_with(|| usable_accelerator(&tools, architecture));
    let host = Host {
        state: &state,
        architecture,
        tools: tools.clone(),
        accelerator: &mut accelerator,
        taken_uids: taken_uids(),
        for_units: !args.no_systemd,
        reserved_links: BTreeSet::new(),
        refused_links: Vec::new(),
    };
    let synced = match sync::run(&config, host) {
        Ok(synced) => synced,
        Err(sync::SyncError::Refused(problem)) => {
            report::to_stderr(&[problem]);
            return Exit::Input;
        }
        Err(error) => {
            report::line(&printable(error.to_string()));
            return Exit::Host;
        }
    };
    let refused = synced.problems.has_errors();
    report::to_stderr(&synced.problems.clone().into_sorted());
    let told = if args.no_systemd { Exit::Fine } else { tell_systemd(args, &synced) };
    match told {
        Exit::Fine if refused => Exit::Input,
        told => told,
    }
}

/// A mistake in the configuration keeps no VM from running that is installed.
fn go_on_with_what_is_there(args: &SyncArgs) {
    let state = StateDirectory::at(&args.state.state_dir);
    if let Ok(catalog) = Catalog::read(&state.catalog())
        && !args.no_systemd
    {
        let synced =
            Synced { before: Some(catalog.clone()), catalog, problems: Problems::default(), changed: false };
        tell_systemd(args, &synced);
    }
}

/// The ids that users and groups of this host have: a VM gets both of one number.
fn taken_uids() -> BTreeSet<u32> {
    let accounts = ["/etc/passwd", "/etc/group"].map(|path| std::fs::read(path).unwrap_or_default());
    let lines = accounts.iter().flat_map(|text| text.split(|byte| *byte == b'\n'));
    lines
        .filter_map(|line| std::str::from_utf8(line.split(|byte| *byte == b':').nth(2)?).ok()?.parse().ok())
        .collect()
}

fn tell_systemd(args: &SyncArgs, synced: &Synced) -> Exit {
    let fail = |what: &str, error: std::io::Error| {
        report::line(&printable(format!("{what}: {error}")));
        Exit::Host
    };
    for (vm, runnable) in synced.catalog.runnable() {
        if let Err(error) = accounts::ensure(Path::new(accounts::DIRECTORY), &vm.id(), runnable.uid) {
            return fail(&format!("the account of {} cannot be made", vm.name), error);
        }
    }
    if !systemd::is_running() {
        report::line("systemd does not run here, so nothing was told to it");
        return Exit::Fine;
    }
    // What systemd has read may be older than the last sync: it ended before it said so,
    // or the state directory was not mounted yet when generators ran at boot.
    let current = units::generation_of_systemd() == Some(synced.catalog.generation);
    if (synced.changed || !current)
        && let Err(error) = systemd::reload()
    {
        return fail("systemd cannot read its units again", error);
    }
    let units = if args.start { vec!["microvms.target".to_owned()] } else { newly_started(synced) };
    if !units.is_empty()
        && let Err(error) = systemd::start_soon(&units)
    {
        return fail("VMs cannot be started", error);
    }
    Exit::Fine
}

/// The units of VMs that start with the host and were not there before.
fn newly_started(synced: &Synced) -> Vec<String> {
    let autostart = |catalog: &Catalog| -> BTreeSet<_> {
        catalog.runnable().filter(|(_, r)| r.autostart).map(|(vm, _)| vm.id()).collect()
    };
    let before = synced.before.as_ref().map(autostart).unwrap_or_default();
    autostart(&synced.catalog).difference(&before).map(|id| systemd::unit(&id.name)).collect()
}
