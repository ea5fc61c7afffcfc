// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The loop that watches a running VM, and decides how its run ended.

use std::io;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::output::{LastLine, say};
use super::shutdown::PRESS_INTERVAL;
use super::uplink::Passt;
use super::virtiofsd::Server;
use super::{Outcome, notify, shares, uplink};
use crate::hypervisor;
use crate::hypervisor::running::VmmEvent;
use crate::plan::Plan;
use crate::system::process::Process;
use crate::system::systemd::RUNNING;

/// How long a VMM may take to end after its guest has.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the end of a virtiofsd or passt its VMM may end: they end in good
/// order when the VMM does.
const SERVER_WINDOW: Duration = Duration::from_secs(1);
/// How close together the resets of one reboot are.
const RESET_WINDOW: Duration = Duration::from_millis(500);
/// How long to wait for the rest of a dead VMM's events and output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The VMM's outputs: standard output and standard error.
const OUTPUTS: usize = 2;

/// What one thread reports to the loop.
pub(super) enum Wake {
    Signal,
    /// With what has the power button pressed by another thread.
    Started(io::Result<SyncSender<()>>),
    NotPressed(io::Error),
    Event(io::Result<Option<VmmEvent>>),
    VmmEnded(io::Result<ExitStatus>),
    ServerEnded(String, io::Result<ExitStatus>),
    UplinkEnded(io::Result<ExitStatus>),
    /// The process that serves this share and others, which is not this one.
    ServersEnded(String),
    OutputEnded,
}

/// How a VMM ended.
pub(super) enum End {
    /// With the VM.
    Over(Outcome),
    /// Because its guest was reset, for another one to run it.
    Reset,
}

/// A VM that was started.
pub(super) struct Watch<'a> {
    pub plan: &'a Plan,
    pub vmm: Process,
    // Dropped after the VMM.
    pub servers: Vec<Server>,
    pub uplink: Option<Passt>,
    pub last_words: LastLine,
    pub stop_timeout: Duration,
    /// For the threads of servers that are started again.
    pub sender: Sender<Wake>,
    pub seen: Seen,
}

/// What the loop has seen and done so far.
#[derive(Default)]
pub(super) struct Seen {
    power_button: Option<SyncSender<()>>,
    outcome: Option<Outcome>,
    stopping: bool,
    /// Whether the VMM ends because its guest was reset.
    ended_by_reset: bool,
    /// When the VMM is killed, and what that then means.
    kill: Option<(Instant, Outcome)>,
    press_at: Option<Instant>,
    /// A server that ended in good order, and when that is a failure.
    server_alarm: Option<(Instant, Outcome)>,
    reset_at: Option<Instant>,
    events_ended: bool,
    outputs_ended: usize,
}

impl Watch<'_> {
    /// Watches the VM until the VMM has ended.
    pub fn until_end(mut self, wakes: &Receiver<Wake>) -> End {
        loop {
            let wake = match self.next_alarm() {
                None => wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(alarm) => wakes.recv_timeout(alarm.saturating_duration_since(Instant::now())),
            };
            match wake {
                Ok(Wake::VmmEnded(status)) => {
                    self.drain(wakes);
                    return self.conclude(status);
                }
                Ok(wake) => self.take(wake),
                Err(_) => self.ring(),
            }
        }
    }

    fn next_alarm(&self) -> Option<Instant> {
        let kill = self.seen.kill.as_ref().map(|(at, _)| *at);
        let server = self.seen.server_alarm.as_ref().map(|(at, _)| *at);
        [kill, self.seen.press_at, server].into_iter().flatten().min()
    }

    /// Does what is due.
    fn ring(&mut self) {
        let now = Instant::now();
        if let Some((_, outcome)) = self.seen.kill.take_if(|(at, _)| *at <= now) {
            self.seen.press_at = None;
            self.seen.outcome.get_or_insert(outcome);
            self.vmm.kill();
        }
        if let Some((_, outcome)) = self.seen.server_alarm.take_if(|(at, _)| *at <= now) {
            self.server_failed(outcome);
        }
        if self.seen.press_at.is_some_and(|at| at <= now) {
            self.seen.press_at = Some(now + PRESS_INTERVAL);
            // Unless it is being pressed.
            let _ = self.seen.power_button.as_ref().map(|button| button.try_send(()));
        }
    }

    /// Kills the VMM if it still lives after `time`, which then means `outcome`.
    fn kill_after(&mut self, time: Duration, outcome: Outcome) {
        let at = Instant::now() + time;
        if self.seen.kill.as_ref().is_none_or(|(planned, _)| at < *planned) {
            self.seen.kill = Some((at, outcome));
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Signal => self.stop(),
            Wake::Started(Ok(power_button)) => {
                self.seen.power_button = Some(power_button);
                let text =
                    format!("{RUNNING}{} ({:?})", self.plan.hypervisor, self.plan.accelerator).to_lowercase();
                notify(&[NotifyState::Ready, NotifyState::Status(&text)]);
                say(&self.plan.name, &text);
            }
            // A VMM that ends says more by its status and last words, so it gets a moment.
            Wake::Started(Err(error)) => {
                self.seen.events_ended = true;
                let why = format!("no answer from the VMM: {error}");
                self.kill_after(DRAIN_TIMEOUT, Outcome::NotStarted(why));
            }
            // A VMM that is killed, or ends, answers no more.
            Wake::NotPressed(error) if self.seen.outcome.is_none() => {
                say(&self.plan.name, &format!("the power button cannot be pressed: {error}"));
            }
            Wake::NotPressed(_) => {}
            Wake::Event(Ok(Some(event))) => self.happened(event),
            Wake::Event(end) => {
                self.seen.events_ended = true;
                let why =
                    end.err().map_or_else(|| "it closed its control socket".to_owned(), |e| e.to_string());
                self.kill_after(END_TIMEOUT, Outcome::VmmFailed(format!("no events from the VMM: {why}")));
            }
            Wake::ServerEnded(tag, status) => self.server_ended(tag, status),
            Wake::UplinkEnded(status) => self.uplink_ended(status),
            // It may end in good order because the VMM does.
            Wake::ServersEnded(tag) if self.seen.outcome.is_none() => {
                let status = "the process that serves it has ended".to_owned();
                self.seen.server_alarm =
                    Some((Instant::now() + SERVER_WINDOW, Outcome::ShareFailed { tag, status }));
            }
            Wake::ServersEnded(_) => {}
            Wake::OutputEnded => self.seen.outputs_ended += 1,
            Wake::VmmEnded(_) => {}
        }
    }

    /// Stops the VM: by the guest the first time, by killing the VMM the second.
    fn stop(&mut self) {
        if self.seen.stopping {
            let why = "a second signal ended the guest's time to power off".to_owned();
            self.seen.outcome.get_or_insert(Outcome::Killed(why));
            self.vmm.kill();
            return;
        }
        self.seen.stopping = true;
        self.seen.press_at = Some(Instant::now());
        let why = format!("the guest did not power off within {} s", self.stop_timeout.as_secs());
        self.kill_after(self.stop_timeout, Outcome::Killed(why));
        notify(&[NotifyState::Stopping, NotifyState::Status("waiting for the guest to power off")]);
        say(&self.plan.name, "stopping: pressing the guest's power button");
    }

    fn happened(&mut self, event: VmmEvent) {
        let outcome = match event {
            VmmEvent::Reset => {
                // One reboot resets the machine several times.
                let now = Instant::now();
                if self.seen.reset_at.replace(now).is_none_or(|last| now - last > RESET_WINDOW) {
                    say(&self.plan.name, "the guest was reset");
                }
                return;
            }
            VmmEvent::EndedByReset => {
                say(&self.plan.name, "the guest was reset");
                self.seen.ended_by_reset = true;
                self.seen.server_alarm = None;
                self.seen.press_at = None;
                let why = "it did not end after a reset of the guest".to_owned();
                return self.kill_after(END_TIMEOUT, Outcome::VmmFailed(why));
            }
            VmmEvent::PoweredOff => Outcome::PoweredOff,
            VmmEvent::Panicked => Outcome::Panicked,
            VmmEvent::Terminated => return,
        };
        self.seen.outcome.get_or_insert(outcome.clone());
        // A server that ends now does so because of this.
        self.seen.server_alarm = None;
        self.seen.press_at = None;
        self.kill_after(END_TIMEOUT, outcome);
        if !hypervisor::description(self.plan.hypervisor).ends_with_guest() {
            self.vmm.terminate();
        }
    }

    fn server_ended(&mut self, tag: String, status: io::Result<ExitStatus>) {
        let orderly = status.as_ref().is_ok_and(ExitStatus::success);
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        if !orderly {
            self.server_failed(Outcome::ShareFailed { tag, status });
        } else if !hypervisor::description(self.plan.hypervisor).reset_drops_shares() {
            let outcome = Outcome::ShareFailed { tag, status };
            self.seen.server_alarm = Some((Instant::now() + SERVER_WINDOW, outcome));
        } else if self.seen.outcome.is_none()
            && let Err(outcome) = self.serve_again(&tag)
        {
            let problems = outcome.problems().into_iter().map(|p| p.cause).collect::<Vec<_>>();
            let why = if problems.is_empty() { outcome.to_string() } else { problems.join(", ") };
            let status = format!("it cannot be started again: {why}");
            self.server_failed(Outcome::ShareFailed { tag, status });
        }
    }

    fn uplink_ended(&mut self, status: io::Result<ExitStatus>) {
        let orderly = status.as_ref().is_ok_and(ExitStatus::success);
        let failed = Outcome::UplinkFailed(status.map_or_else(|e| e.to_string(), |s| s.to_string()));
        if !orderly {
            self.server_failed(failed);
        } else if !hypervisor::description(self.plan.hypervisor).reset_drops_shares() {
            self.seen.server_alarm = Some((Instant::now() + SERVER_WINDOW, failed));
        } else if self.seen.outcome.is_none() {
            self.uplink = None;
            let sender = self.sender.clone();
            match uplink::start(self.plan, move |status| drop(sender.send(Wake::UplinkEnded(status)))) {
                Ok(passt) => self.uplink = passt,
                Err(outcome) => self.server_failed(Outcome::UplinkFailed(outcome.to_string())),
            }
        }
    }

    /// Starts the server of a share again, for a VMM that has left it: to end, or
    /// to connect again.
    fn serve_again(&mut self, tag: &str) -> Result<(), Outcome> {
        self.servers.retain(|server| server.tag != tag);
        let sender = self.sender.clone();
        self.servers.extend(shares::start(self.plan, &|t| t == tag, Duration::ZERO, move |tag, status| {
            drop(sender.send(Wake::ServerEnded(tag, status)));
        })?);
        Ok(())
    }

    /// Ends the VM: a guest whose shared directory is gone hangs at the next access, and so
    /// cannot power off; one whose passt is gone has no network until its VMM starts again.
    /// Nor does Cloud Hypervisor always end when it is asked to: one thread answers its API,
    /// and tries for a minute to connect to the server again when the guest is reset
    /// (`connect_vhost_user`).
    fn server_failed(&mut self, outcome: Outcome) {
        self.seen.outcome.get_or_insert(outcome);
        self.vmm.kill();
    }

    /// Takes what a dead VMM has left: its last events and output.
    fn drain(&mut self, wakes: &Receiver<Wake>) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.seen.outputs_ended < OUTPUTS || !self.seen.events_ended {
            match wakes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Wake::Signal) => self.seen.stopping = true,
                Ok(Wake::ServerEnded(..) | Wake::UplinkEnded(_) | Wake::NotPressed(_)) => {}
                Ok(wake) => self.take(wake),
                Err(_) => break,
            }
        }
    }

    fn conclude(&mut self, status: io::Result<ExitStatus>) -> End {
        if self.seen.ended_by_reset && self.seen.outcome.is_none() {
            // A guest that was to power off does not come again.
            return if self.seen.stopping { End::Over(Outcome::PoweredOff) } else { End::Reset };
        }
        End::Over(self.outcome(status))
    }

    fn outcome(&mut self, status: io::Result<ExitStatus>) -> Outcome {
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        let words = self.last_words.get().map(|line| format!("; its last words: {line}")).unwrap_or_default();
        let ended = format!("{} ended with {status}", self.plan.hypervisor);
        match self.seen.outcome.take() {
            Some(Outcome::NotStarted(why)) => Outcome::NotStarted(format!("{why}{words}")),
            Some(outcome) => outcome,
            None if self.seen.power_button.is_none() => {
                Outcome::NotStarted(format!("{ended} before it answered{words}"))
            }
            None => Outcome::VmmFailed(format!("{ended}{words}")),
        }
    }
}
