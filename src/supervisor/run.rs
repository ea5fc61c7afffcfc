// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting a VM with all that it needs.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use super::claim::Claim;
use super::links::Links;
use super::output::{self, LastLine, say};
use super::watch::{Seen, Wake, Watch};
use super::{Outcome, dead_links, files, no_thread, on_signal, shares};
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::hypervisor;
use crate::hypervisor::description::{EVENTS_FD, FilePaths};
use crate::hypervisor::running::{Started, vhost_net_is_usable};
use crate::link::taps::{self, INTERFACES};
use crate::plan::Plan;
use crate::system::process::{Inherited, Process, in_background, keep_memory_private};

/// How long a guest gets to power off, unless an option says otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a VMM may take until its control socket answers. A loaded machine
/// needs seconds, and a broken VMM ends by itself.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the servers of a killed supervisor may take to end.
const CRASH_PATIENCE: Duration = Duration::from_secs(2);

/// What the caller decides about a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the guest gets to power off before the VMM is killed.
    pub stop_timeout: Duration,
    /// Whether another process must serve the shared directories.
    pub external_virtiofsd: bool,
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
    let (sender, wakes) = channel();
    let signals = sender.clone();
    on_signal(move || signals.send(Wake::Signal).is_ok())?;
    let claim = Claim::take(plan)?;
    check_taps(plan)?;
    let files = files::open(plan).map_err(Outcome::InputRefused)?;
    let servers = if options.external_virtiofsd {
        shares::check_served(plan)?;
        Vec::new()
    } else {
        let patience = if claim.was_left_behind() { CRASH_PATIENCE } else { Duration::ZERO };
        let ended = sender.clone();
        let ended = move |tag, status| drop(ended.send(Wake::ServerEnded(tag, status)));
        shares::start(plan, &|_| true, patience, ended)?
    };
    if rustix::process::geteuid().is_root() {
        say(&plan.name, "the virtual machine monitor runs as root: use a dedicated unprivileged user");
    }
    let (mut vmm, events) = spawn_vmm(plan, files)?;
    let last_words = report_vmm(&mut vmm, plan, &sender)?;
    report_events(plan, events, sender.clone())?;
    let seen = Seen::default();
    let stop_timeout = options.stop_timeout;
    let outcome = Watch { plan, vmm, servers, last_words, stop_timeout, sender, seen }.until_end(&wakes);
    // The VMM is gone, then its servers; their sockets and the lock go last.
    drop(claim);
    Ok(outcome)
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
fn spawn_vmm(plan: &Plan, mut inherited: Vec<Inherited>) -> Result<(Process, Option<File>), Outcome> {
    let hypervisor = hypervisor::description(plan.hypervisor);
    let arguments = hypervisor.command(plan, &FilePaths::inherited(plan, vhost_net_is_usable()));
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

/// Reports the VMM's start and events, and follows the links of its clients.
fn report_events(plan: &Plan, events: Option<File>, sender: Sender<Wake>) -> Result<(), Outcome> {
    let plan = plan.clone();
    let report = move || {
        let Started { mut events, power_button } =
            match hypervisor::running(&plan, START_TIMEOUT).wait_for_start(events) {
                Ok(started) => started,
                Err(error) => return drop(sender.send(Wake::Started(Err(error)))),
            };
        let links = Links::new(&plan);
        if let Err(error) = in_background(move || links.follow()) {
            say(&plan.name, &format!("links cannot be plugged in: {error}"));
        }
        // Nothing else depends on it.
        let _ = in_background(move || dead_links::report(&plan));
        let mut going = sender.send(Wake::Started(Ok(power_button))).is_ok();
        while going {
            let event = events.next().transpose();
            going = matches!(event, Ok(Some(_)));
            going &= sender.send(Wake::Event(event)).is_ok();
        }
    };
    in_background(report).map_err(no_thread)
}
