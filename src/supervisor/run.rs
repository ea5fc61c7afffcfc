// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting a VM with all that it needs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::claim::Claim;
use super::links::Links;
use super::output::{self, LastLine, say};
use super::shares::Others;
use super::watch::{End, Seen, Wake, Watch};
use super::windows::CompositorLink;
use super::{Outcome, dead_links, files, no_thread, notify, on_signal, shares, uplink, windows};
use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::hypervisor;
use crate::hypervisor::description::{EVENTS_FD, FilePaths};
use crate::hypervisor::running::{PowerButton, Started, vhost_net_is_usable};
use crate::link::taps::{self, INTERFACES};
use crate::plan::{Plan, pci};
use crate::system::process::{Inherited, Process, in_background, keep_memory_private};

/// How long a guest gets to power off, unless an option says otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a VMM may do nothing before its control socket answers. A broken one ends by
/// itself, and a loaded machine is slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a VMM that works may take until its control socket answers.
const START_LIMIT: Duration = Duration::from_secs(600);
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
    let mut followed = false;
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
        if !std::mem::replace(&mut followed, true) {
            signals.report_end_of(plan, &others)?;
        }
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

    /// Reports the end of the process that serves these shares, to the [`Watch`] of that time.
    fn report_end_of(&self, plan: &Plan, others: &Others) -> Result<(), Outcome> {
        let current = Arc::clone(&self.0);
        others.on_end(plan, move |tag| drop(lock(&current).send(Wake::ServersEnded(tag))))
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
    let process = vmm
        .pidfd()
        .map_err(|error| Outcome::HostFailed(format!("cannot watch the virtual machine monitor: {error}")))?;
    let (speaking, silent) = channel();
    let mut works = works(vmm.id());
    let report = move || {
        let vmm = hypervisor::running(&plan, START_TIMEOUT);
        let Started { mut events, power_button } =
            match vmm.wait_for_start(process.as_fd(), events, &mut works) {
                Ok(started) => started,
                Err(error) => return drop(sender.send(Wake::Started(Err(error)))),
            };
        let links = Links::new(&plan);
        let follow = move || {
            links.follow(process);
            drop(speaking);
        };
        if let Err(error) = in_background(follow) {
            say(&plan.name, &format!("links cannot be plugged in: {error}"));
        }
        let power_button = press_in_background(&sender, power_button);
        let mut going = sender.send(Wake::Started(power_button)).is_ok();
        while going {
            let event = events.next().transpose();
            going = matches!(event, Ok(Some(_)));
            going &= sender.send(Wake::Event(event)).is_ok();
        }
    };
    in_background(report).map_err(no_thread)?;
    Ok(silent)
}

/// Presses the power button whenever it receives something, in a thread of its own: a VMM
/// that does not answer must not keep the supervisor from what else is to be done.
fn press_in_background(wakes: &Sender<Wake>, mut press: PowerButton) -> io::Result<SyncSender<()>> {
    let (sender, presses) = sync_channel(1);
    let wakes = wakes.clone();
    in_background(move || {
        for () in presses {
            if let Err(error) = press() {
                drop(wakes.send(Wake::NotPressed(error)));
            }
        }
    })?;
    Ok(sender)
}

/// Says whether the VMM has used processor time since the last call; then systemd waits
/// for it once more, too.
fn works(vmm: u32) -> impl FnMut() -> bool + Send {
    let begun = Instant::now();
    let mut used = processor_time(vmm);
    move || {
        let now = processor_time(vmm);
        let works = begun.elapsed() < START_LIMIT && now > std::mem::replace(&mut used, now);
        if works {
            // Twice as long, since systemd is to outlast this.
            let extension = u32::try_from(2 * START_TIMEOUT.as_micros()).unwrap_or(u32::MAX);
            notify(&[NotifyState::ExtendTimeoutUsec(extension)]);
        }
        works
    }
}

/// The processor time that a process and its threads have used, in ticks of the kernel's
/// clock (`utime` and `stime` in `proc_pid_stat(5)`); 0 when there is none.
fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Its name is in parentheses and may contain any.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Child;

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_works_while_it_uses_the_processor() {
        let busy = Command::new("/bin/sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let mut busy_works = works(busy.id());
        let begun = Instant::now();
        while !busy_works() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it uses no processor time");
            std::thread::sleep(Duration::from_millis(20));
        }
        end(busy);
        let idle = Command::new("/bin/sh").args(["-c", "read x"]).stdin(Stdio::piped()).spawn().unwrap();
        // It starts first.
        let (mut idle_works, mut times) = (works(idle.id()), 0);
        while idle_works() {
            times += 1;
            assert!(times < 100, "it uses processor time");
        }
        end(idle);
        assert!(!busy_works(), "it has ended");
    }
}
