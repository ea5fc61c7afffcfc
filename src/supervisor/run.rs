// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting a VM with all that it needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::claim::Claim;
use super::links::Links;
use super::output::{self, LastLine, say};
use super::shares::Others;
use super::watch::{End, Seen, Wake, Watch};
use super::windows::CompositorLink;
use super::{Outcome, dead_links, files, no_thread, on_signal, shares, uplink, windows};
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::hypervisor;
use crate::hypervisor::description::{EVENTS_FD, FilePaths};
use crate::hypervisor::running::{Started, vhost_net_is_usable};
use crate::link::taps::{self, INTERFACES};
use crate::plan::{Plan, pci};
use crate::system::process::{Inherited, Process, in_background, keep_memory_private};

/// How long a guest gets to power off, unless an option says otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a VMM may take until its control socket answers. A loaded machine
/// needs seconds, and a broken VMM ends by itself.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the servers of a killed supervisor may take to end.
const CRASH_PATIENCE: Duration = Duration::from_secs(2);

/// How long after the start of a VMM the next one starts at the earliest: a guest may
/// be reset again and again.
const RUN_INTERVAL: Duration = Duration::from_secs(1);
/// How long the process that serves the shared directories may take to do so again.
const SERVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to look whether it does.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long the links of a VMM that has ended may take to notice.
const LINKS_TIMEOUT: Duration = Duration::from_secs(10);

/// What the caller decides about a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the guest gets to power off before the VMM is killed.
    pub stop_timeout: Duration,
    /// Whether another process must serve the shared directories.
    pub external_virtiofsd: bool,
    /// Whether another process must run passt.
    pub external_uplink: bool,
    /// The socket of the session's Wayland compositor, if there is a session.
    pub compositor: Option<PathBuf>,
    /// Whether a VM with windows starts where no compositor is. A link to one that is in
    /// the working directory is used then.
    pub without_compositor: bool,
}

/// Runs the VM of a plan in the working directory, until it ends.
///
/// Must be called by the main thread, see [`Process::spawn`].
pub fn run(plan: &Plan, options: &Options) -> Outcome {
    match start_and_watch(plan, options) {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

fn start_and_watch(plan: &Plan, options: &Options) -> Result<Outcome, Outcome> {
    // systemd believes this process. A VMM that was taken over, which has the same user,
    // must not speak through it.
    keep_memory_private()
        .map_err(|error| Outcome::HostFailed(format!("cannot keep its memory private: {error}")))?;
    let (signals, mut wakes) = Signals::receive()?;
    let claim = Claim::take(plan)?;
    check_taps(plan)?;
    let compositor = CompositorLink::make(plan, options)?;
    let files = files::open(plan).map_err(Outcome::InputRefused)?;
    // The shares that this process serves: after a reset it serves the same.
    let mut own: Option<BTreeSet<String>> = None;
    let mut patience = if claim.was_left_behind() { CRASH_PATIENCE } else { Duration::ZERO };
    if rustix::process::geteuid().is_root() {
        say(&plan.name, "the virtual machine monitor runs as root: use a dedicated unprivileged user");
    }
    windows::follow(plan).map_err(no_thread)?;
    dead_links::follow(plan).map_err(no_thread)?;
    let outcome = loop {
        let sender = signals.sender();
        let servers = if options.external_virtiofsd {
            shares::check_served(plan)?;
            Vec::new()
        } else {
            let ended = sender.clone();
            let ended = move |tag, status| drop(ended.send(Wake::ServerEnded(tag, status)));
            let wanted = |tag: &str| own.as_ref().is_none_or(|own| own.contains(tag));
            shares::start(plan, &wanted, patience, ended)?
        };
        (own, patience) = (Some(servers.iter().map(|it| it.tag.clone()).collect()), Duration::ZERO);
        let uplink = if options.external_uplink {
            uplink::check_served(plan)?;
            None
        } else {
            let ended = sender.clone();
            uplink::start(plan, move |status| drop(ended.send(Wake::UplinkEnded(status))))?
        };
        let others = Others::of(plan, &servers);
        let started = Instant::now();
        let (mut vmm, events) = spawn_vmm(plan, &files)?;
        let last_words = report_vmm(&mut vmm, plan, &sender)?;
        let links = report_events(plan, &vmm, events, sender.clone())?;
        let seen = Seen::default();
        let stop_timeout = options.stop_timeout;
        match (Watch { plan, vmm, servers, uplink, last_words, stop_timeout, sender, seen }).until_end(&wakes)
        {
            End::Over(outcome) => break outcome,
            End::Reset => {}
        }
        // What threads report of the old VMM and its servers must not count for the new one.
        let stopped = signals.renew(&mut wakes);
        // None of them speaks to the next VMM.
        let _ = links.recv_timeout(LINKS_TIMEOUT);
        claim.remove_sockets();
        if stopped || !may_run_again(&wakes, started, &others)? {
            break Outcome::PoweredOff;
        }
    };
    // The VMM is gone, then its servers; their sockets and the lock go last.
    drop((compositor, claim));
    Ok(outcome)
}

/// Waits until the next VMM of a VM that was reset may start; returns false when a signal
/// to stop comes before.
fn may_run_again(wakes: &Receiver<Wake>, started: Instant, others: &Others) -> Result<bool, Outcome> {
    let earliest = started + RUN_INTERVAL;
    let deadline = Instant::now() + SERVE_TIMEOUT;
    loop {
        let now = Instant::now();
        let wait = match others.not_again() {
            None if now >= earliest => return Ok(true),
            None => earliest - now,
            Some(tag) if now >= deadline => {
                let status = "it was not served again after a reset".to_owned();
                return Err(Outcome::ShareFailed { tag: tag.to_owned(), status });
            }
            Some(_) => LOOK_INTERVAL,
        };
        if let Ok(Wake::Signal) = wakes.recv_timeout(wait) {
            return Ok(false);
        }
    }
}

/// The signals to stop, which every [`Watch`] gets with the reports of its own VMM.
struct Signals(Arc<Mutex<Sender<Wake>>>);

impl Signals {
    fn receive() -> Result<(Self, Receiver<Wake>), Outcome> {
        let (sender, wakes) = channel();
        let current = Arc::new(Mutex::new(sender));
        let signals = Self(Arc::clone(&current));
        on_signal(move || lock(&current).send(Wake::Signal).is_ok())?;
        Ok((signals, wakes))
    }

    fn sender(&self) -> Sender<Wake> {
        lock(&self.0).clone()
    }

    /// Leaves all that is still reported to the old channel; returns whether a signal is
    /// among it.
    fn renew(&self, wakes: &mut Receiver<Wake>) -> bool {
        let (sender, next) = channel();
        *lock(&self.0) = sender;
        std::mem::replace(wakes, next).try_iter().any(|wake| matches!(wake, Wake::Signal))
    }
}

fn lock(sender: &Mutex<Sender<Wake>>) -> MutexGuard<'_, Sender<Wake>> {
    sender.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_taps(plan: &Plan) -> Result<(), Outcome> {
    let user = rustix::process::geteuid().as_raw();
    let mut problems = Problems::default();
    for interface in &plan.interfaces {
        if !taps::exists(&interface.tap) {
            problems.push(Problem::error(
                INTERFACES,
                format!("lacks the tap interface {} of the link to {}", interface.tap, interface.provider),
                format!("run the package's bin/tap-up as root, with MICROVM_SPECTRUM_USER={user}"),
            ));
        }
    }
    if problems.has_errors() { Err(Outcome::HostIncomplete(problems)) } else { Ok(()) }
}

/// Starts the VMM with its files; returns the pipe for its events, if it writes any.
fn spawn_vmm(plan: &Plan, files: &[Inherited]) -> Result<(Process, Option<File>), Outcome> {
    let again = |(file, number): &Inherited| Ok((file.try_clone()?, *number));
    let inherited: io::Result<Vec<_>> = files.iter().map(again).collect();
    let mut inherited =
        inherited.map_err(|error| Outcome::HostFailed(format!("cannot open a file again: {error}")))?;
    let hypervisor = hypervisor::description(plan.hypervisor);
    let address_bits = pci::address_bits(Path::new(pci::SYS), &plan.pci_devices);
    let used = FilePaths { address_bits, ..FilePaths::inherited(plan, vhost_net_is_usable()) };
    let arguments = hypervisor.command(plan, &used);
    let (program, arguments) =
        arguments.split_first().ok_or_else(|| Outcome::HostFailed("no VMM".to_owned()))?;
    let mut events = None;
    if hypervisor.writes_events() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Outcome::HostFailed(format!("cannot create a pipe: {error}")))?;
        inherited.push((write, EVENTS_FD));
        events = Some(read.into());
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let vmm = Process::spawn(command, inherited, None)
        .map_err(|error| Outcome::NotStarted(format!("{} cannot be started: {error}", printable(program))))?;
    Ok((vmm, events))
}

/// Passes the VMM's output on and reports its end; returns what it printed last.
fn report_vmm(vmm: &mut Process, plan: &Plan, sender: &Sender<Wake>) -> Result<LastLine, Outcome> {
    let last_words = LastLine::default();
    let ended = || {
        let sender = sender.clone();
        move || drop(sender.send(Wake::OutputEnded))
    };
    if let Some(pipe) = vmm.take_stdout() {
        output::pass_serial(pipe, ended()).map_err(no_thread)?;
    }
    if let Some(pipe) = vmm.take_stderr() {
        let who = format!("{}: {}", plan.name, plan.hypervisor);
        output::pass_lines(pipe, who, last_words.clone(), ended()).map_err(no_thread)?;
    }
    let sender = sender.clone();
    vmm.on_end(move |status| drop(sender.send(Wake::VmmEnded(status)))).map_err(no_thread)?;
    Ok(last_words)
}

/// Reports the VMM's start and events, and follows the links of its clients. What it
/// returns disconnects when nothing speaks to the VMM for them any more.
fn report_events(
    plan: &Plan,
    vmm: &Process,
    events: Option<File>,
    sender: Sender<Wake>,
) -> Result<Receiver<()>, Outcome> {
    let plan = plan.clone();
    let vmm = vmm
        .pidfd()
        .map_err(|error| Outcome::HostFailed(format!("cannot watch the virtual machine monitor: {error}")))?;
    let (speaking, silent) = channel();
    let report = move || {
        let Started { mut events, power_button } =
            match hypervisor::running(&plan, START_TIMEOUT).wait_for_start(vmm.as_fd(), events) {
                Ok(started) => started,
                Err(error) => return drop(sender.send(Wake::Started(Err(error)))),
            };
        let links = Links::new(&plan);
        let follow = move || {
            links.follow(vmm);
            drop(speaking);
        };
        if let Err(error) = in_background(follow) {
            say(&plan.name, &format!("links cannot be plugged in: {error}"));
        }
        let mut going = sender.send(Wake::Started(Ok(power_button))).is_ok();
        while going {
            let event = events.next().transpose();
            going = matches!(event, Ok(Some(_)));
            going &= sender.send(Wake::Event(event)).is_ok();
        }
    };
    in_background(report).map_err(no_thread)?;
    Ok(silent)
}
