// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting, stopping and restarting VMs, by their units.

use std::fmt;
use std::io;
use std::process::Stdio;

use serde::Serialize;

use crate::base::name::VmName;
use crate::system::systemd::{UnitStatus, helpers, status, systemctl, unit};

/// What systemd does with VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Starts them.
    Start,
    /// Stops them.
    Stop,
    /// Stops and starts them.
    Restart,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no `systemctl`, or it does not start.
    #[error("systemctl cannot be started: {0}")]
    Systemctl(io::Error),
    /// Neither root nor authorised.
    #[error("only root, or a user whom polkit authorises, may {0} VMs")]
    NotAuthorised(Verb),
    /// These VMs failed; `systemctl` has printed why, where there are none.
    #[error("{}", lines(.0))]
    Failed(Vec<Failure>),
}

/// Why one VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A condition of its unit was not met, which is a success for systemd.
    #[error(
        "{0} was not started: systemd has not read how it is installed now, or its user has no account \
         (is libnss-systemd installed?); run 'microvm-spectrum sync'"
    )]
    Skipped(VmName),
    /// Its unit failed.
    #[error("{name}: {said}\n{name}: run 'microvm-spectrum log --all {name}' to see more")]
    Failed {
        /// The VM.
        name: VmName,
        /// The last message of its supervisor, or of the unit without which it does not start.
        said: String,
    },
}

fn lines(failures: &[Failure]) -> String {
    failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\n")
}

/// Has systemd do `verb` to VMs, and waits for it.
///
/// `systemctl` prints to the terminal, and asks for a password there if polkit
/// wants one.
///
/// # Errors
/// See [`ControlError`].
pub fn control(verb: Verb, names: &[VmName]) -> Result<(), ControlError> {
    let mut units: Vec<_> = names.iter().map(unit).collect();
    let helpers = names.iter().flat_map(helpers);
    match verb {
        // They stop by themselves; naming them waits for them.
        Verb::Stop => units.extend(helpers),
        // The user wants it now, however often it has failed before.
        Verb::Start | Verb::Restart => {
            let all = units.iter().cloned().chain(helpers);
            let _ = systemctl(&["reset-failed", "--"]).args(all).stderr(Stdio::null()).status();
        }
    }
    let mut command = systemctl(&[&verb.to_string(), "--"]);
    let ended = command.args(units).stdin(Stdio::inherit()).status().map_err(ControlError::Systemctl)?;
    let failures = match (ended.success(), verb) {
        (true, Verb::Stop) => return Ok(()),
        (true, _) => failures(names, skipped),
        (false, _) if rustix::process::geteuid().is_root() => failures(names, failed),
        (false, _) => return Err(ControlError::NotAuthorised(verb)),
    };
    if ended.success() && failures.is_empty() { Ok(()) } else { Err(ControlError::Failed(failures)) }
}

fn failures(names: &[VmName], failure: fn(&VmName, &UnitStatus) -> Option<Failure>) -> Vec<Failure> {
    let found = status(names).unwrap_or_default();
    names.iter().filter_map(|name| failure(name, found.get(name)?)).collect()
}

fn skipped(name: &VmName, status: &UnitStatus) -> Option<Failure> {
    (status.skipped && status.active != "active").then(|| Failure::Skipped(name.clone()))
}

fn failed(name: &VmName, status: &UnitStatus) -> Option<Failure> {
    let reason = status.reason();
    let said = if reason.raw().is_empty() { "it did not start" } else { reason.raw() };
    matches!(status.active.as_str(), "failed" | "inactive" | "activating")
        .then(|| Failure::Failed { name: name.clone(), said: said.to_owned() })
}
