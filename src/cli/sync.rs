// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum sync`

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use super::progress::Progress;
use super::{
    Exit, StateArgs, dry_run, find_tools, host_architecture, report, tell_systemd, usable_accelerator,
};
use crate::base::architecture::Architecture;
use crate::base::name::VmId;
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::{self, Tool};
use crate::config::{self, Config};
use crate::state::catalog::{Catalog, CatalogVm, VmState};
use crate::state::directory::StateDirectory;
use crate::state::nix_store::NixStore;
use crate::state::started::Started;
use crate::sync::{self, Host, SyncError, Synced};

/// Where Nix is that systemd's PATH does not have: on NixOS, and elsewhere.
const NIX_PATH: &str = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin";
/// How often all is scanned again when a source has changed meanwhile.
const MAX_ROUNDS: usize = 3;

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

    /// Put the packages into the Nix store of this host, as `nix-store = true` in the configuration
    #[arg(long)]
    nix_store: bool,

    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "start")]
    dry_run: bool,
}

/// What is the same for each round.
struct Surroundings {
    architecture: Architecture,
    tools: BTreeMap<Tool, PathBuf>,
    taken_uids: BTreeSet<u32>,
    nix_store: Option<NixStore>,
}

pub(super) fn run(args: &SyncArgs) -> Exit {
    let architecture = match host_architecture() {
        Ok(architecture) => architecture,
        Err(problem) => {
            report::to_stderr(&[problem]);
            return Exit::Host;
        }
    };
    let state = StateDirectory::at(&args.state.state_dir);
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            let exit = Exit::of_problems(&problems);
            report::to_stderr(&problems.into_sorted());
            go_on_with_what_is_there(args, &state);
            return exit;
        }
    };
    let Ok(nix_store) = nix_store(args.nix_store || config.nix_store) else {
        go_on_with_what_is_there(args, &state);
        return Exit::Host;
    };
    let tools = find_tools(config.tools.clone());
    let with = Surroundings { architecture, tools, taken_uids: taken_uids(), nix_store };
    let mut round = Round { exit: Exit::Fine, problems: Vec::new(), watches_more: false };
    for _ in 0..MAX_ROUNDS {
        let seen = changed_at(&config);
        round = once(args, &config, &state, &with);
        // Who watches a source is told nothing of what changes while this runs.
        let missed = seen != changed_at(&config) || round.watches_more;
        if args.no_systemd || args.dry_run || !missed {
            break;
        }
    }
    report::to_stderr(&round.problems);
    round.exit
}

/// What came of looking at all sources once.
struct Round {
    exit: Exit,
    problems: Vec<Problem>,
    /// Whether there are VMs with errors that nobody has watched until now.
    watches_more: bool,
}

impl From<Exit> for Round {
    fn from(exit: Exit) -> Self {
        Self { exit, problems: Vec::new(), watches_more: false }
    }
}

fn once(args: &SyncArgs, config: &Config, state: &StateDirectory, with: &Surroundings) -> Round {
    let mut found = None;
    let mut accelerator = || *found.get_or_insert_with(|| usable_accelerator(&with.tools, with.architecture));
    let mut progress = Progress::new("reading VMs");
    let host = Host {
        state,
        architecture: with.architecture,
        tools: with.tools.clone(),
        accelerator: &mut accelerator,
        taken_uids: with.taken_uids.clone(),
        running_uids: Started::all().into_iter().map(|started| (started.uid, started.vm)).collect(),
        for_units: !args.no_systemd,
        nix_store: with.nix_store.as_ref(),
        progress: &mut |done, of| progress.tell(done, of),
    };
    let synced = if args.dry_run { sync::dry_run(config, host) } else { sync::run(config, host) };
    drop(progress);
    let synced = match synced {
        Ok(synced) => synced,
        Err(SyncError::Refused(problem)) => {
            go_on_with_what_is_there(args, state);
            return Round { problems: vec![problem], ..Round::from(Exit::Input) };
        }
        Err(error) => {
            report::line(&printable(error.to_string()));
            go_on_with_what_is_there(args, state);
            return Exit::Host.into();
        }
    };
    let told = match (args.dry_run, args.no_systemd) {
        (true, _) => dry_run::print(&synced, state, !args.no_systemd),
        (false, true) => Exit::Fine,
        (false, false) => tell_systemd::tell(&synced, state, args.start),
    };
    let exit = match (&synced.not_durable, told) {
        // VMs begin from the new packages already, so systemd was told nevertheless.
        (Some(error), _) => {
            report::line(&printable(error.to_string()));
            Exit::Host
        }
        (None, Exit::Fine) if synced.problems.has_errors() => Exit::Input,
        (None, told) => told,
    };
    let broken = |catalog: &Catalog| -> BTreeSet<VmId> {
        let broken = catalog.vms.iter().filter(|vm| matches!(vm.state, VmState::Broken { .. }));
        broken.map(CatalogVm::id).collect()
    };
    let before = synced.before.as_ref().map(broken).unwrap_or_default();
    let watches_more = !broken(&synced.catalog).is_subset(&before);
    Round { exit, problems: synced.problems.into_sorted(), watches_more }
}

/// A mistake in the configuration, or a host that fails, keeps no VM from running
/// that is installed.
fn go_on_with_what_is_there(args: &SyncArgs, state: &StateDirectory) {
    if let Ok(catalog) = Catalog::read(&state.catalog())
        && !args.no_systemd
        && !args.dry_run
    {
        let synced = Synced {
            before: Some(catalog.clone()),
            catalog,
            problems: Problems::default(),
            changed: false,
            not_durable: None,
        };
        tell_systemd::tell(&synced, state, args.start);
    }
}

/// The program of the Nix store, if packages are to be put there.
fn nix_store(wanted: bool) -> Result<Option<NixStore>, ()> {
    if !wanted {
        return Ok(None);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    match tool::find("nix-store", &path).or_else(|| tool::find("nix-store", NIX_PATH.as_ref())) {
        Some(program) => Ok(Some(NixStore { program })),
        None => {
            report::line("to put packages into the Nix store takes the program nix-store: install Nix");
            Err(())
        }
    }
}

/// Which directory each source is, and when the names in it have changed last.
fn changed_at(config: &Config) -> Vec<Option<(u64, u64, Option<SystemTime>)>> {
    let look = |path: &Path| {
        let found = path.metadata().ok()?;
        Some((found.dev(), found.ino(), found.modified().ok()))
    };
    config.sources.iter().map(|source| look(&source.vm_directories())).collect()
}

/// The ids that users and groups of this host have: a VM gets both of one number.
fn taken_uids() -> BTreeSet<u32> {
    let accounts = ["/etc/passwd", "/etc/group"].map(|path| std::fs::read(path).unwrap_or_default());
    let lines = accounts.iter().flat_map(|text| text.split(|byte| *byte == b'\n'));
    lines
        .filter_map(|line| std::str::from_utf8(line.split(|byte| *byte == b':').nth(2)?).ok()?.parse().ok())
        .collect()
}
