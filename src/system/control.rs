// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting, stopping and restarting VMs, by their units.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::base::name::VmName;
use crate::base::printable::Untrusted;
use crate::system::systemd::{UnitStatus, helpers, status, systemctl, unit};

/// After this time, the caller hears which VMs take so long to stop.
const SHORT: Duration = Duration::from_secs(3);
/// How often it hears that.
const SAY_INTERVAL: Duration = Duration::from_secs(1);
/// How often to look whether systemd is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
    /// All VMs have stopped, these by a kill.
    #[error("{}", lines(.0))]
    Killed(Vec<Failure>),
}

/// A VM that takes long to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopping {
    /// The VM.
    pub name: VmName,
    /// Since when it is to stop.
    pub time: Duration,
    /// What its supervisor waits for; none says nothing.
    pub what: Untrusted,
}

/// Why one VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A condition of its unit was not met, which is a success for systemd.
    #[error(
        "{0} was not started: a condition of its unit is not met; look at 'systemctl status {unit}', and run \
         'microvm-spectrum sync' if it should be installed",
        unit = unit(.0)
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
    /// Its guest did not power off in time.
    #[error("{0} has stopped: {1}")]
    Killed(VmName, String),
}

fn lines(failures: &[Failure]) -> String {
    failures.iter().map(Failure::to_string).collect::<Vec<_>>().join("\n")
}

/// Has systemd do `verb` to VMs, and waits for it.
///
/// `systemctl` prints to the terminal, and asks for a password there if polkit
/// wants one. Tells `waiting`, again and again, which VMs take long to stop.
///
/// # Errors
/// See [`ControlError`].
pub fn control(verb: Verb, names: &[VmName], waiting: impl FnMut(&[Stopping])) -> Result<(), ControlError> {
    let before = if verb == Verb::Stop { status(names).unwrap_or_default() } else { BTreeMap::new() };
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
    command.args(units).stdin(Stdio::inherit());
    let ended = wait(command, names, waiting).map_err(ControlError::Systemctl)?;
    let failures = match (ended.success(), verb) {
        (true, Verb::Stop) => {
            let is_new = |name: &VmName| before.get(name).is_none_or(|unit| unit.active != "failed");
            let names: Vec<_> = names.iter().filter(|name| is_new(name)).cloned().collect();
            let killed = failures(&names, killed);
            return if killed.is_empty() { Ok(()) } else { Err(ControlError::Killed(killed)) };
        }
        (true, _) => failures(names, skipped),
        (false, _) if rustix::process::geteuid().is_root() => failures(names, failed),
        (false, _) => return Err(ControlError::NotAuthorised(verb)),
    };
    if ended.success() && failures.is_empty() { Ok(()) } else { Err(ControlError::Failed(failures)) }
}

/// Runs `systemctl`, and says meanwhile which VMs are stopping.
fn wait(
    mut systemctl: Command,
    names: &[VmName],
    mut waiting: impl FnMut(&[Stopping]),
) -> io::Result<ExitStatus> {
    let mut child = systemctl.spawn()?;
    let mut say_at = Instant::now() + SHORT;
    loop {
        if let Some(ended) = child.try_wait()? {
            return Ok(ended);
        }
        std::thread::sleep(LOOK_INTERVAL);
        if Instant::now() >= say_at {
            say_at = Instant::now() + SAY_INTERVAL;
            let stopping: Vec<_> = status(names)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|(n, unit)| stopping(n, unit))
                .collect();
            waiting(&stopping);
        }
    }
}

fn stopping(name: VmName, unit: UnitStatus) -> Option<Stopping> {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(unit.since?);
    let time = since.elapsed().unwrap_or_default();
    (unit.active == "deactivating").then_some(Stopping { name, time, what: unit.text })
}

/// Has systemd begin to stop VMs, which Pacemaker stops while systemd waits for Pacemaker to
/// end and would stop them only then. The helper units wait for the VMs' own as always.
pub fn stop_out_of_order<'a>(names: impl IntoIterator<Item = &'a VmName>) {
    let units: Vec<_> = names.into_iter().map(unit).collect();
    if !units.is_empty() {
        // What fails here fails when they are stopped and waited for.
        let mut command = systemctl(&["stop", "--no-block", "--job-mode=ignore-dependencies", "--"]);
        let _ = command.args(units).stderr(Stdio::null()).status();
    }
}

fn failures(names: &[VmName], failure: fn(&VmName, &UnitStatus) -> Option<Failure>) -> Vec<Failure> {
    let found = status(names).unwrap_or_default();
    names.iter().filter_map(|name| failure(name, found.get(name)?)).collect()
}

fn skipped(name: &VmName, status: &UnitStatus) -> Option<Failure> {
    (status.skipped && status.active != "active").then(|| Failure::Skipped(name.clone()))
}

fn killed(name: &VmName, status: &UnitStatus) -> Option<Failure> {
    let said = if status.text.raw().is_empty() { "it was killed" } else { status.text.raw() };
    status.killed.then(|| Failure::Killed(name.clone(), said.to_owned()))
}

fn failed(name: &VmName, status: &UnitStatus) -> Option<Failure> {
    let reason = status.reason();
    let said = if reason.raw().is_empty() { "it did not start" } else { reason.raw() };
    matches!(status.active.as_str(), "failed" | "inactive" | "activating")
        .then(|| Failure::Failed { name: name.clone(), said: said.to_owned() })
}
