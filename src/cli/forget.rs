// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum forget`

use std::path::Path;

use clap::Args;

use super::{Exit, StateArgs, report};
use crate::base::name::{SourceName, VmId};
use crate::base::printable::printable;
use crate::state::directory::StateDirectory;
use crate::sync::{self, ForgetError, SyncError};
use crate::system::accounts;

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// VMs that are in no source any more, SOURCE/NAME or NAME where that is clear
    #[arg(required_unless_present = "source", value_name = "NAME")]
    names: Vec<String>,

    /// All VMs that this source does not have any more
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Vec<SourceName>,

    #[command(flatten)]
    state: StateArgs,

    /// Only change the state directory: accounts stay
    #[arg(long)]
    no_systemd: bool,
}

fn source(text: &str) -> Result<SourceName, String> {
    SourceName::new(text).map_err(|error| error.to_string())
}

pub(super) fn run(args: &ForgetArgs) -> Exit {
    let state = StateDirectory::at(&args.state.state_dir);
    let remove_account = |_: &VmId, uid: Option<u32>| match uid {
        Some(uid) if !args.no_systemd => {
            let directory = Path::new(accounts::DIRECTORY);
            accounts::remove(directory, uid)
                .map_err(|error| SyncError::Io { path: directory.to_owned(), error })
        }
        _ => Ok(()),
    };
    match sync::forget(&state, &args.names, &args.source, remove_account) {
        Ok(forgotten) => {
            for vm in forgotten {
                report::line(&format!("{vm} is forgotten"));
            }
            Exit::Fine
        }
        Err(errors) => {
            for error in &errors {
                match error {
                    ForgetError::Sync(SyncError::Refused(problem)) => {
                        report::to_stderr(std::slice::from_ref(problem));
                    }
                    other => report::line(&printable(other.to_string())),
                }
            }
            let host = |error: &ForgetError| matches!(error, ForgetError::Sync(SyncError::Io { .. }));
            if errors.iter().any(host) { Exit::Host } else { Exit::Input }
        }
    }
}
