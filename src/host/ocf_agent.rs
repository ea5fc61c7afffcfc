// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The resource agent by which Pacemaker starts, stops and watches a VM on this host.
//!
//! Source: the Resource Agent API 1.1 of the Open Cluster Framework
//! (<https://github.com/ClusterLabs/OCF-spec>), and Pacemaker's own variables.

use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::base::name::VmName;
use crate::base::printable::Printable;
use crate::base::problem::Problem;
use crate::base::template::render;
use crate::state::cib::OPERATIONS;
use crate::state::installed::{Installed, VmError};
use crate::state::status::{Condition, VmStatus};
use crate::system::control::{ControlError, Verb, control, stop_out_of_order};
use crate::system::systemd;

/// How often to look whether systemd is done with a VM.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How an action of the agent ends when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// It is done, or the VM runs: `OCF_SUCCESS`.
    Fine = 0,
    /// The VM does not run: `OCF_NOT_RUNNING`.
    NotRunning = 7,
}

/// Why an action of the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no such action.
    #[error("usage: vm start|stop|monitor|validate-all|meta-data")]
    NoAction,
    /// Pacemaker did not say which VM.
    #[error("the parameter name is not set")]
    NoName,
    /// The VM cannot run on this host.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// It is not known, because the catalog cannot be used.
    #[error("{}: {}", .0.path.display(), .0.cause)]
    Catalog(Problem),
    /// systemd did not start or stop it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It should run and has failed.
    #[error("{0}: {1}")]
    Failed(VmName, Printable),
    /// systemd does not answer.
    #[error("{0}: systemd does not say whether it runs")]
    Unknown(VmName),
    /// systemd says that it has stopped it, which is not so.
    #[error("{0}: is still running")]
    Runs(VmName),
    /// The kernel does not end its processes.
    #[error("{0}: processes of {unit} do not end", unit = systemd::unit(.0))]
    Processes(VmName),
}

impl AgentError {
    /// The exit status for Pacemaker. After `OCF_ERR_INSTALLED` it does not try again on this
    /// host, after `OCF_ERR_CONFIGURED` on none.
    pub fn status(&self) -> u8 {
        match self {
            Self::NoAction => 3,                 // OCF_ERR_UNIMPLEMENTED
            Self::NoName => 6,                   // OCF_ERR_CONFIGURED
            Self::Vm(_) | Self::Catalog(_) => 5, // OCF_ERR_INSTALLED
            _ => 1,                              // OCF_ERR_GENERIC
        }
    }

    /// What `crm_mon` shows beside the failure: one line.
    pub fn reason(&self) -> Printable {
        let text = self.to_string();
        match self {
            // Each failed VM has lines of its own.
            Self::Control(_) => Printable::new(text.lines().next().unwrap_or_default()),
            Self::Vm(VmError::CannotRun(vm)) => {
                let problems = vm.problems().first();
                let why = problems.map(|problem| format!(": {}: {}", problem.path, problem.cause));
                Printable::composed(text + &why.unwrap_or_default())
            }
            Self::Failed(..) => Printable::composed(text),
            _ => Printable::new(text),
        }
    }
}

/// Does what Pacemaker calls the agent for; `variable` reads the environment.
///
/// # Errors
/// See [`AgentError`].
pub fn act(
    state_directory: &Path,
    action: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Ended, AgentError> {
    let value = |name: &str| variable(name).unwrap_or_default();
    let name = value("OCF_RESKEY_name");
    match action {
        "start" | "stop" | "monitor" | "validate-all" if name.is_empty() => Err(AgentError::NoName),
        "start" => start(state_directory, &name),
        "stop" => stop(state_directory, &name),
        "monitor" => {
            // Where it should run it is looked for again and again, and there a failure is one.
            let is_repeated = !matches!(value("OCF_RESKEY_CRM_meta_interval").as_str(), "" | "0");
            let should_run = is_repeated && value("OCF_RESKEY_CRM_meta_role") != "Stopped";
            monitor(state_directory, &name, should_run)
        }
        "validate-all" => installed(state_directory, &name, Installed::known).map(|_| Ended::Fine),
        _ => Err(AgentError::NoAction),
    }
}

/// The VM with this name, as `find` finds it.
fn installed(
    state_directory: &Path,
    name: &str,
    find: fn(&Installed, &str) -> Result<VmName, VmError>,
) -> Result<VmName, AgentError> {
    let installed = Installed::read(state_directory);
    find(&installed, name).map_err(|error| match installed.problem {
        Some(problem) => AgentError::Catalog(problem),
        None => error.into(),
    })
}

fn start(state_directory: &Path, name: &str) -> Result<Ended, AgentError> {
    let name = installed(state_directory, name, Installed::usable)?;
    control(Verb::Start, &[name], |_| {})?;
    Ok(Ended::Fine)
}

fn stop(state_directory: &Path, name: &str) -> Result<Ended, AgentError> {
    let Ok(vm) = VmName::new(name) else { return Ok(Ended::Fine) };
    stop_out_of_order([&vm]);
    let stopped = control(Verb::Stop, std::slice::from_ref(&vm), |_| {});
    match monitor(state_directory, name, false)? {
        // Also after a kill, of a guest that did not power off in time.
        Ended::NotRunning => Ok(Ended::Fine),
        Ended::Fine => Err(stopped.err().map_or(AgentError::Runs(vm), Into::into)),
    }
}

/// Whether a VM runs, once systemd does not start or stop it any more. Pacemaker limits the time.
fn monitor(state_directory: &Path, name: &str, should_run: bool) -> Result<Ended, AgentError> {
    let Ok(name) = VmName::new(name) else { return Ok(Ended::NotRunning) };
    let seen = loop {
        let installed = Installed::read(state_directory);
        let is_known = installed.known(name.as_str()).is_ok();
        let seen = is_known.then(|| VmStatus::of_vm(&installed, &name).0);
        match seen.as_ref().map(|vm| vm.state) {
            Some(Condition::Starting | Condition::Restarting | Condition::Stopping) => {
                thread::sleep(LOOK_INTERVAL);
            }
            _ => break seen,
        }
    };
    match seen {
        Some(VmStatus { state: Condition::Running, .. }) => Ok(Ended::Fine),
        Some(VmStatus { state: Condition::Unknown, .. }) => Err(AgentError::Unknown(name)),
        Some(VmStatus { state: Condition::Failed, detail, .. }) if should_run => {
            let why = detail.unwrap_or_else(|| Printable::composed("failed"));
            Err(AgentError::Failed(name, why))
        }
        _ if systemd::has_processes(&systemd::unit(&name)) => Err(AgentError::Processes(name)),
        _ => Ok(Ended::NotRunning),
    }
}

/// What the agent says of itself, in XML.
pub fn meta_data() -> String {
    let actions = OPERATIONS.map(|(name, role, interval, timeout)| {
        json!({"name": name, "role": role, "interval": interval, "timeout": timeout})
    });
    render(include_str!("ocf-agent.xml.hbs"), &json!({"actions": actions}))
}
