// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting the servers of a VM's shared directories, and `bin/virtiofsd-run`.

use std::io;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::output::{self, LastLine};
use super::{Outcome, no_thread, notify, on_signal};
use crate::base::name::VmName;
use crate::base::problem::Problems;
use crate::base::tool::Tool;
use crate::hypervisor;
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames, is_bound, is_foreign, remove_socket};
use crate::supervisor::virtiofsd::{self, OpenShare, Privileges, Server};
use crate::system::poll;
use crate::system::process::in_background;

/// How often to look whether a VM that left its servers still runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a VM may take to end whose shared directory cannot be served again: it may
/// be gone because the VM is, and then a signal comes, or the VM's lock is released.
const ENDING_PATIENCE: Duration = Duration::from_secs(30);
/// How long after its start a server is started again at the earliest.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// Starts a server for every share that has none in this directory yet.
///
/// Calls `ended` from another thread, with the share's tag, when one has ended.
/// For `wanted` and `patience` see [`virtiofsd::open_unserved`].
pub(super) fn start(
    plan: &Plan,
    wanted: &dyn Fn(&str) -> bool,
    patience: Duration,
    ended: impl Fn(String, io::Result<ExitStatus>) + Clone + Send + 'static,
) -> Result<Vec<Server>, Outcome> {
    if let Some(share) = plan.shares.iter().find(|share| is_foreign(&share.socket)) {
        let why = format!("the socket {} of the share '{}' belongs to another user", share.socket, share.tag);
        return Err(Outcome::HostFailed(why));
    }
    let shares = virtiofsd::open_unserved(plan, wanted, patience).map_err(Outcome::InputRefused)?;
    start_open(shares, &Serving::of(plan), ended)
}

/// Checks that every share has a server in this directory.
pub(super) fn check_served(plan: &Plan) -> Result<(), Outcome> {
    match plan.shares.iter().find(|share| !is_bound(&share.socket)) {
        Some(share) => {
            Err(Outcome::HostFailed(format!("no virtiofsd serves the shared directory '{}'", share.tag)))
        }
        None => Ok(()),
    }
}

/// The shares that another process serves, each with what its socket is now.
pub(super) struct Others(Vec<(String, String, SocketStamp)>);

/// Device, inode and time of change of a socket: another for each that is bound.
type SocketStamp = Option<(u64, u64, i64, i64)>;

impl Others {
    /// Those of the plan that none of `own` serves.
    pub fn of(plan: &Plan, own: &[Server]) -> Self {
        let others = plan.shares.iter().filter(|share| own.iter().all(|server| server.tag != share.tag));
        Self(others.map(|it| (it.tag.clone(), it.socket.clone(), stamp(&it.socket))).collect())
    }

    /// Calls `ended`, once, from another thread when the process that serves them has ended;
    /// one of a former version cannot be watched.
    pub fn on_end(&self, plan: &Plan, ended: impl FnOnce(String) + Send + 'static) -> Result<(), Outcome> {
        let Some((tag, ..)) = self.0.first() else { return Ok(()) };
        let Ok(connection) = UnixStream::connect(SocketNames::new(&plan.name).servers()) else {
            return Ok(());
        };
        let tag = tag.clone();
        let wait = move || {
            if poll::is_readable(&connection, None).is_ok() {
                ended(tag);
            }
        };
        in_background(wait).map_err(no_thread)
    }

    /// The tag of a share that the process has not begun to serve again since, if any: a
    /// server ends when its VMM does, and its socket may be there for a moment still.
    pub fn not_again(&self) -> Option<&str> {
        let not_again =
            |(_, socket, before): &&(_, String, SocketStamp)| stamp(socket) == *before || !is_bound(socket);
        self.0.iter().find(not_again).map(|(tag, ..)| tag.as_str())
    }
}

fn stamp(socket: &str) -> SocketStamp {
    let found = std::fs::metadata(socket).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

fn start_open(
    shares: Vec<OpenShare>,
    serving: &Serving<'_>,
    ended: impl Fn(String, io::Result<ExitStatus>) + Clone + Send + 'static,
) -> Result<Vec<Server>, Outcome> {
    let mut servers = Vec::new();
    for share in shares {
        let mut server = share
            .serve(&serving.program, &serving.privileges)
            .map_err(|error| Outcome::HostFailed(error.to_string()))?;
        if let Some(pipe) = server.process.take_stderr() {
            let who = format!("{}: virtiofsd", serving.name);
            output::pass_lines(pipe, who, LastLine::default(), || {}).map_err(no_thread)?;
        }
        let (ended, tag) = (ended.clone(), server.tag.clone());
        server.process.on_end(move |status| ended(tag, status)).map_err(no_thread)?;
        servers.push(server);
    }
    Ok(servers)
}

/// When to start a server again that has ended in good order, because its client
/// has disconnected.
pub enum Again {
    /// Never: its client has ended.
    Never,
    /// As long as a supervisor holds this lock, the VM's run lock.
    WhileLocked(String),
    /// Always, until a signal to stop comes.
    Always,
}

/// The [socket](SocketNames::servers) by which a supervisor learns that the servers have gone.
struct Presence {
    path: String,
    _listener: UnixListener,
}

impl Presence {
    fn of(serving: &Serving<'_>) -> io::Result<Self> {
        let path = SocketNames::new(serving.name).servers();
        remove_socket(&path);
        let presence = Self { _listener: UnixListener::bind(&path)?, path };
        if serving.privileges.client.is_some() {
            lchown(&presence.path, serving.privileges.client, None)?;
        }
        Ok(presence)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        remove_socket(&self.path);
    }
}

/// How shared directories are served.
pub struct Serving<'a> {
    /// The VM.
    pub name: &'a VmName,
    /// virtiofsd.
    pub program: PathBuf,
    /// What only root can do for the servers.
    pub privileges: Privileges,
}

impl<'a> Serving<'a> {
    /// With the program of a plan, without privileges.
    fn of(plan: &'a Plan) -> Self {
        // Not needed where there is nothing to serve.
        let program = plan.tool(Tool::Virtiofsd).map(PathBuf::from).unwrap_or_default();
        Self { name: &plan.name, program, privileges: Privileges::default() }
    }
}

/// Opens the directories of the shares whose tags the given function accepts.
pub type Opening<'a> = dyn Fn(&dyn Fn(&str) -> bool) -> Result<Vec<OpenShare>, Problems> + 'a;

/// What one thread reports.
enum Wake {
    Signal,
    Ended(String, io::Result<ExitStatus>),
}

/// Serves all shared directories of a VM until the VM has ended, or a signal comes.
///
/// Notifies systemd, when there is one, as soon as all sockets listen. Must be
/// called by the main thread, see [`Process::spawn`](crate::system::process::Process::spawn).
pub fn serve_until_end(plan: &Plan) -> Outcome {
    let open = |wanted: &dyn Fn(&str) -> bool| virtiofsd::open_unserved(plan, wanted, Duration::ZERO);
    let hypervisor = hypervisor::description(plan.hypervisor);
    let again = match hypervisor.reset_drops_shares() || hypervisor.ends_on_reset(plan) {
        true => Again::WhileLocked(SocketNames::new(&plan.name).run_lock()),
        false => Again::Never,
    };
    match serve(&Serving::of(plan), &open, &again) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

/// Serves the directories that `open` opens, for as long as [`Again`] says.
///
/// Must be called by the main thread, as [`serve_until_end`].
///
/// # Errors
/// The outcome, when a directory cannot be opened or a server not started.
pub fn serve(serving: &Serving<'_>, open: &Opening<'_>, again: &Again) -> Result<Outcome, Outcome> {
    let (sender, wakes) = channel();
    let signals = sender.clone();
    on_signal(move || signals.send(Wake::Signal).is_ok())?;
    let ended = move |tag, status| drop(sender.send(Wake::Ended(tag, status)));
    let shares = open(&|_| true).map_err(Outcome::InputRefused)?;
    let mut servers = start_open(shares, serving, ended.clone())?;
    // Ends before the servers do, whatever the reason.
    let _presence = Presence::of(serving).map_err(|error| {
        Outcome::HostFailed(format!("the socket of the servers cannot be created: {error}"))
    })?;
    let mut started = Instant::now();
    notify(&[NotifyState::Ready]);
    let mut look = None;
    // When the VM must have ended, and what it means if it has not.
    let mut lost: Option<(Instant, Outcome)> = None;
    while !servers.is_empty() || lost.is_some() {
        let alarm = lost.as_ref().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let wake = match look.into_iter().chain(alarm).min() {
            None => wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(interval) => wakes.recv_timeout(interval),
        };
        match wake {
            // A server ends in good order when its VM does, or resets.
            Ok(Wake::Ended(tag, Ok(status))) if status.success() => {
                servers.retain(|server| server.tag != tag);
                match again {
                    Again::WhileLocked(lock) if Lock::is_held(lock) => look = Some(LOOK_INTERVAL),
                    Again::Always => {}
                    _ => continue,
                }
                std::thread::sleep(MIN_INTERVAL.saturating_sub(started.elapsed()));
                let shares = open(&|t| t == tag).map_err(Outcome::InputRefused);
                match shares.and_then(|shares| start_open(shares, serving, ended.clone())) {
                    Ok(again) => servers.extend(again),
                    Err(why) => drop(lost.get_or_insert((Instant::now() + ENDING_PATIENCE, why))),
                }
                started = Instant::now();
            }
            Ok(Wake::Ended(tag, status)) => {
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                return Ok(Outcome::ShareFailed { tag, status });
            }
            Err(RecvTimeoutError::Timeout) => {
                if matches!(again, Again::WhileLocked(lock) if !Lock::is_held(lock)) {
                    break;
                }
                if let Some((_, why)) = lost.take_if(|(at, _)| *at <= Instant::now()) {
                    return Err(why);
                }
            }
            Ok(Wake::Signal) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(Outcome::PoweredOff)
}
