// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting the servers of a VM's shared directories, and `bin/virtiofsd-run`.

use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use sd_notify::NotifyState;

use super::output::{self, LastLine};
use super::{Outcome, no_thread, notify, on_signal};
use crate::manifest::Plan;
use crate::runtime::{Lock, SocketNames, is_foreign};
use crate::virtiofsd::{self, Server};

/// How often to look whether a VM that left its servers still runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Starts a server for every share that nobody serves in this directory yet.
///
/// Calls `ended` from another thread, with the share's tag, when one has ended.
/// For `wanted` and `patience` see [`virtiofsd::open_unserved`].
pub(super) fn start(
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
    patience: Duration,
    ended: impl Fn(String, io::Result<ExitStatus>) + Clone + Send + 'static,
) -> Result<Vec<Server>, Outcome> {
    if let Some(share) = plan.shares.iter().find(|share| is_foreign(&share.socket)) {
        let why = format!("the socket {} of the share '{}' belongs to another user", share.socket, share.tag);
        return Err(Outcome::HostFailed(why));
    }
    let shares = virtiofsd::open_unserved(plan, wanted, patience).map_err(Outcome::InputRefused)?;
    let mut servers = Vec::new();
    for share in shares {
        let mut server = share.serve(plan).map_err(|error| Outcome::HostFailed(error.to_string()))?;
        if let Some(pipe) = server.process.take_stderr() {
            let who = format!("{}: virtiofsd", plan.name);
            output::pass_lines(pipe, who, LastLine::default(), || {}).map_err(no_thread)?;
        }
        let (ended, tag) = (ended.clone(), server.tag.clone());
        server.process.on_end(move |status| ended(tag, status)).map_err(no_thread)?;
        servers.push(server);
    }
    Ok(servers)
}

/// What one thread reports.
enum Wake {
    Signal,
    Ended(String, io::Result<ExitStatus>),
}

/// Serves all shared directories of a VM until the VM has ended, or a signal comes.
///
/// Tells systemd, when there is one, as soon as all sockets listen. Must be
/// called by the main thread, see [`Process::spawn`](crate::process::Process::spawn).
pub fn serve_until_end(plan: &Plan) -> Outcome {
    match serve(plan) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

fn serve(plan: &Plan) -> Result<Outcome, Outcome> {
    let (sender, wakes) = channel();
    let signals = sender.clone();
    on_signal(move || signals.send(Wake::Signal).is_ok())?;
    let ended = move |tag, status| drop(sender.send(Wake::Ended(tag, status)));
    let mut servers = start(plan, |_| true, Duration::ZERO, ended.clone())?;
    notify(&[NotifyState::Ready]);
    let again = plan.hypervisor.implementation().reset_drops_shares();
    let run_lock = SocketNames::new(&plan.name).run_lock();
    let mut look = None;
    while !servers.is_empty() {
        let wake = match look {
            None => wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(interval) => wakes.recv_timeout(interval),
        };
        match wake {
            // A server ends in good order when its VM does, or resets.
            Ok(Wake::Ended(tag, Ok(status))) if status.success() => {
                servers.retain(|server| server.tag != tag);
                if again && Lock::is_held(&run_lock) {
                    servers.extend(start(plan, |t| t == tag, Duration::ZERO, ended.clone())?);
                    look = Some(LOOK_INTERVAL);
                }
            }
            Ok(Wake::Ended(tag, status)) => {
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                return Ok(Outcome::ShareFailed { tag, status });
            }
            Err(RecvTimeoutError::Timeout) if Lock::is_held(&run_lock) => {}
            Ok(Wake::Signal) | Err(_) => break,
        }
    }
    Ok(Outcome::PoweredOff)
}
