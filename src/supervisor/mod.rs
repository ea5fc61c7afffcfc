// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The supervisor: runs one VM from its start to its end.
//!
//! It is the same by hand and in a unit: it starts the VMM as its child, waits
//! until the VMM's control socket answers, tells systemd when there is one,
//! passes the guest's serial output through, watches the VMM's events, and ends
//! with an [`Outcome`]. On SIGTERM, SIGINT or SIGHUP it presses the guest's
//! power button and, after a time-out or at a second signal, kills the VMM.
//! Whatever it started and every socket are gone when it returns.
//!
//! Every thread does one blocking thing and reports to the one loop here.

pub mod console;
mod files;
mod links;
mod outcome;
mod output;
mod shares;
pub mod virtiofsd;

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

pub use outcome::Outcome;
pub use output::say_last;
pub use shares::{Again, Opening, Serving, serve, serve_until_end};

use crate::base::printable::printable;
use crate::base::problem::{Problem, Problems};
use crate::hypervisor::{Attached, Control, EVENTS_FD, FilePaths, Hypervisor, VmmEvent};
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames, remove_socket};
use crate::supervisor::virtiofsd::Server;
use crate::system::process::{Inherited, Process, in_background};
use files::OpenFiles;
use links::Links;
use output::{LastLine, say};

/// How long a guest gets to power off, when nobody chooses.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a VMM may take until its control socket answers. A loaded machine
/// needs seconds, and a broken VMM ends by itself.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a VMM may take to end after its guest has.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// virtiofsd ends in good order when its VMM has ended; how soon that shows.
const SHARE_WINDOW: Duration = Duration::from_secs(1);
/// How close together the resets of one reboot are.
const RESET_WINDOW: Duration = Duration::from_millis(500);
/// How often the power button is pressed again: a guest that is still booting
/// does not notice the first time.
const PRESS_INTERVAL: Duration = Duration::from_secs(2);
/// How long to wait for the rest of a dead VMM's events and output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what a killed supervisor has left may take to end.
const CRASH_PATIENCE: Duration = Duration::from_secs(2);
/// How long another holder of the run lock may take to leave it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// What one thread reports to the loop.
enum Wake {
    Signal,
    Attached(io::Result<Box<dyn Control>>),
    Event(io::Result<Option<VmmEvent>>),
    VmmEnded(io::Result<ExitStatus>),
    ServerEnded(String, io::Result<ExitStatus>),
    OutputEnded,
}

/// What whoever runs a VM decides.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the guest gets to power off before it is killed.
    pub stop_timeout: Duration,
    /// Whether somebody else serves the shared directories, for sure.
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

/// Files in the working directory that go when the VM does.
struct RuntimeFiles {
    sockets: SocketNames,
    lock: Lock,
}

impl RuntimeFiles {
    fn claim(plan: &Plan) -> Result<Self, Outcome> {
        let sockets = SocketNames::new(&plan.name);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let lock = Lock::take(&sockets.run_lock(), deadline).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                Outcome::HostFailed("the VM runs in this directory already".to_owned())
            } else {
                Outcome::HostFailed(format!(
                    "this directory cannot be written to, which a VM needs for its sockets: {error}"
                ))
            }
        })?;
        let files = Self { sockets, lock };
        files.remove();
        Ok(files)
    }

    fn remove(&self) {
        for socket in self.sockets.of_vmm() {
            remove_socket(socket);
        }
    }
}

impl Drop for RuntimeFiles {
    fn drop(&mut self) {
        self.remove();
        let _ = std::fs::remove_file(self.sockets.control_lock_of_vmm());
        // Left by clients that were killed while they held them.
        drop(Lock::try_take(&self.sockets.control_lock()));
        drop(Lock::try_take(&self.sockets.console_lock()));
    }
}

fn start_and_watch(plan: &Plan, options: &Options) -> Result<Outcome, Outcome> {
    let (sender, wakes) = channel();
    let signals = sender.clone();
    on_signal(move || signals.send(Wake::Signal).is_ok())?;
    let runtime = RuntimeFiles::claim(plan)?;
    check_taps(plan)?;
    let files = OpenFiles::open(plan).map_err(Outcome::InputRefused)?;
    let ended = sender.clone();
    // Servers of a supervisor that was killed may not all be gone yet.
    let patience = if runtime.lock.was_left_behind() { CRASH_PATIENCE } else { Duration::ZERO };
    let servers = if options.external_virtiofsd {
        shares::check_served(plan)?;
        Vec::new()
    } else {
        let ended = move |tag, status| drop(ended.send(Wake::ServerEnded(tag, status)));
        shares::start(plan, &|_| true, patience, ended)?
    };
    if rustix::process::geteuid().is_root() {
        say(&plan.name, "the virtual machine monitor runs as root here: better run it as a user of its own");
    }
    let hypervisor = plan.hypervisor.implementation();
    let last_words = LastLine::default();
    let vmm = start_vmm(plan, hypervisor, files, &runtime.sockets, &sender, &last_words)?;
    let mut watch = Watch {
        plan,
        hypervisor,
        vmm,
        servers,
        sender,
        stop_timeout: options.stop_timeout,
        last_words,
        control: None,
        found: None,
        stopping: false,
        kill: None,
        press_at: None,
        outputs: 2,
        share_alarm: None,
        reset_at: None,
        events_ended: false,
    };
    let outcome = watch.until_end(&wakes);
    // The VMM first, then its servers, then their sockets.
    drop(watch);
    drop(runtime);
    Ok(outcome)
}

/// Calls `told` from another thread at every signal to stop, until it returns false.
fn on_signal(told: impl Fn() -> bool + Send + 'static) -> Result<(), Outcome> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])
        .map_err(|error| Outcome::HostFailed(format!("signals cannot be received: {error}")))?;
    let tell = move || {
        signals.forever().take_while(|_| told()).for_each(drop);
    };
    in_background(tell).map_err(no_thread)
}

fn no_thread(error: io::Error) -> Outcome {
    Outcome::HostFailed(format!("there can be no further thread: {error}"))
}

fn check_taps(plan: &Plan) -> Result<(), Outcome> {
    let user = rustix::process::geteuid().as_raw();
    let mut problems = Problems::default();
    for interface in &plan.interfaces {
        let path = std::path::Path::new("/sys/class/net").join(&*interface.tap);
        if !path.exists() {
            problems.push(Problem::error(
                path,
                format!(
                    "the tap interface {} of the link to {} does not exist",
                    interface.tap, interface.provider
                ),
                format!("make it with the package's bin/tap-up, as root, with MICROVM_SPECTRUM_USER={user}"),
            ));
        }
    }
    if problems.has_errors() { Err(Outcome::HostIncomplete(problems)) } else { Ok(()) }
}

fn start_vmm(
    plan: &Plan,
    hypervisor: &'static dyn Hypervisor,
    files: OpenFiles,
    sockets: &SocketNames,
    sender: &Sender<Wake>,
    last_words: &LastLine,
) -> Result<Process, Outcome> {
    let arguments = hypervisor.command(plan, &FilePaths::inherited(plan));
    let (program, arguments) =
        arguments.split_first().ok_or_else(|| Outcome::HostFailed("no VMM".to_owned()))?;
    let mut inherited: Vec<Inherited> = files.into_inherited();
    let mut events = None;
    if hypervisor.writes_events() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Outcome::HostFailed(format!("a pipe cannot be made: {error}")))?;
        inherited.push((write, EVENTS_FD));
        events = Some(read.into());
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut vmm = Process::spawn(command, inherited, None)
        .map_err(|error| Outcome::NotStarted(format!("{} cannot be started: {error}", printable(program))))?;
    if let Some(pipe) = vmm.take_stdout() {
        let sender = sender.clone();
        output::pass_serial(pipe, move || drop(sender.send(Wake::OutputEnded))).map_err(no_thread)?;
    }
    if let Some(pipe) = vmm.take_stderr() {
        let sender = sender.clone();
        let who = format!("{}: {}", plan.name, plan.hypervisor);
        let ended = move || drop(sender.send(Wake::OutputEnded));
        output::pass_lines(pipe, who, last_words.clone(), ended).map_err(no_thread)?;
    }
    let ended = sender.clone();
    vmm.on_end(move |status| drop(ended.send(Wake::VmmEnded(status)))).map_err(no_thread)?;
    let (plan, sockets, sender) = (plan.clone(), sockets.clone(), sender.clone());
    in_background(move || {
        let deadline = Instant::now() + START_TIMEOUT;
        match hypervisor.attach(&plan, &sockets, events, deadline) {
            Err(error) => drop(sender.send(Wake::Attached(Err(error)))),
            Ok(Attached { mut events, control }) => {
                let links = Links::new(&plan, &sockets, hypervisor);
                if let Err(error) = in_background(move || links.follow()) {
                    say(&plan.name, &format!("no links can be plugged in: {error}"));
                }
                let mut going = sender.send(Wake::Attached(Ok(control))).is_ok();
                while going {
                    let event = events.next();
                    going = matches!(event, Ok(Some(_)));
                    going &= sender.send(Wake::Event(event)).is_ok();
                }
            }
        }
    })
    .map_err(no_thread)?;
    Ok(vmm)
}

/// What the loop knows of the running VM.
struct Watch<'a> {
    plan: &'a Plan,
    hypervisor: &'static dyn Hypervisor,
    vmm: Process,
    // Dropped after the VMM.
    servers: Vec<Server>,
    sender: Sender<Wake>,
    stop_timeout: Duration,
    last_words: LastLine,
    control: Option<Box<dyn Control>>,
    found: Option<Outcome>,
    stopping: bool,
    /// When the VMM is killed, and what that then means.
    kill: Option<(Instant, Outcome)>,
    press_at: Option<Instant>,
    /// The VMM's outputs that are still open.
    outputs: u8,
    /// A server that ended in good order, and when that is a failure.
    share_alarm: Option<(Instant, String, String)>,
    reset_at: Option<Instant>,
    events_ended: bool,
}

impl Watch<'_> {
    fn until_end(&mut self, wakes: &Receiver<Wake>) -> Outcome {
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
        let share = self.share_alarm.as_ref().map(|(at, ..)| *at);
        [self.kill.as_ref().map(|(at, _)| *at), self.press_at, share].into_iter().flatten().min()
    }

    /// A guest whose shared directory is gone hangs at the next access, so the
    /// VM ends with it.
    fn share_failed(&mut self, tag: String, status: String) {
        let outcome = Outcome::ShareFailed { tag, status };
        self.found.get_or_insert(outcome.clone());
        self.vmm.terminate();
        self.kill_after(END_TIMEOUT, outcome);
    }

    /// Starts the server of a share anew, for a VMM that connects to it again.
    fn serve_again(&mut self, tag: &str) -> Result<(), Outcome> {
        self.servers.retain(|server| server.tag != tag);
        let sender = self.sender.clone();
        self.servers.extend(shares::start(self.plan, &|t| t == tag, Duration::ZERO, move |tag, status| {
            drop(sender.send(Wake::ServerEnded(tag, status)));
        })?);
        Ok(())
    }

    /// Has the VMM killed when it still lives after `time`, which then means `outcome`.
    fn kill_after(&mut self, time: Duration, outcome: Outcome) {
        let at = Instant::now() + time;
        if self.kill.as_ref().is_none_or(|(planned, _)| at < *planned) {
            self.kill = Some((at, outcome));
        }
    }

    /// Does what is due.
    fn ring(&mut self) {
        let now = Instant::now();
        if let Some((_, outcome)) = self.kill.take_if(|(at, _)| *at <= now) {
            self.press_at = None;
            self.found.get_or_insert(outcome);
            self.vmm.kill();
        }
        if let Some((_, tag, status)) = self.share_alarm.take_if(|(at, ..)| *at <= now) {
            self.share_failed(tag, status);
        }
        if self.press_at.is_some_and(|at| at <= now) {
            self.press_at = Some(now + PRESS_INTERVAL);
            self.press_power_button();
        }
    }

    fn press_power_button(&mut self) {
        if let Some(control) = &mut self.control
            && let Err(error) = control.press_power_button()
        {
            say(&self.plan.name, &format!("the power button cannot be pressed: {error}"));
        }
    }

    fn take(&mut self, wake: Wake) {
        match wake {
            Wake::Signal => self.stop(),
            Wake::Attached(Ok(control)) => {
                self.control = Some(control);
                let text = format!("running in {} ({:?})", self.plan.hypervisor, self.plan.accelerator)
                    .to_lowercase();
                notify(&[NotifyState::Ready, NotifyState::Status(&text)]);
                say(&self.plan.name, &text);
            }
            // A VMM that ends says more by its status and last words, so it gets a moment.
            Wake::Attached(Err(error)) => {
                self.kill_after(
                    DRAIN_TIMEOUT,
                    Outcome::NotStarted(format!("no answer from the VMM: {error}")),
                );
            }
            Wake::Event(Ok(Some(event))) => self.happened(event),
            Wake::Event(end) => {
                self.events_ended = true;
                let why =
                    end.err().map_or_else(|| "it closed its control socket".to_owned(), |e| e.to_string());
                self.kill_after(END_TIMEOUT, Outcome::VmmFailed(format!("no events from the VMM: {why}")));
            }
            Wake::ServerEnded(tag, status) => {
                let orderly = status.as_ref().is_ok_and(ExitStatus::success);
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                if orderly && self.hypervisor.reset_drops_shares() {
                    // The VMM left it, for its own end or to come again.
                    if self.found.is_none()
                        && let Err(outcome) = self.serve_again(&tag)
                    {
                        let problems = outcome.problems().into_iter().map(|p| p.cause).collect::<Vec<_>>();
                        let why = if problems.is_empty() { outcome.to_string() } else { problems.join(", ") };
                        self.share_failed(tag, format!("it cannot be served again: {why}"));
                    }
                } else if orderly {
                    self.share_alarm = Some((Instant::now() + SHARE_WINDOW, tag, status));
                } else {
                    self.share_failed(tag, status);
                }
            }
            Wake::OutputEnded => self.outputs = self.outputs.saturating_sub(1),
            Wake::VmmEnded(_) => {}
        }
    }

    /// Somebody wants the VM to stop.
    fn stop(&mut self) {
        let now = Instant::now();
        if self.stopping {
            self.found
                .get_or_insert(Outcome::Killed("a second signal did not leave the guest time".to_owned()));
            self.vmm.kill();
            return;
        }
        self.stopping = true;
        self.press_at = Some(now);
        let why = format!("the guest did not power off within {} s", self.stop_timeout.as_secs());
        self.kill_after(self.stop_timeout, Outcome::Killed(why));
        notify(&[NotifyState::Stopping, NotifyState::Status("waiting for the guest to power off")]);
        say(&self.plan.name, "stopping: the guest's power button is pressed");
    }

    fn happened(&mut self, event: VmmEvent) {
        let outcome = match event {
            VmmEvent::Reset => {
                // One reboot resets the machine several times.
                let now = Instant::now();
                if self.reset_at.replace(now).is_none_or(|last| now - last > RESET_WINDOW) {
                    say(&self.plan.name, "the guest was reset");
                }
                return;
            }
            VmmEvent::PoweredOff => Outcome::PoweredOff,
            VmmEvent::Panicked => Outcome::Panicked,
            VmmEvent::Terminated => return,
        };
        self.found.get_or_insert(outcome.clone());
        // A server that ends now does so because of this.
        self.share_alarm = None;
        self.press_at = None;
        self.kill_after(END_TIMEOUT, outcome);
        if !self.hypervisor.ends_with_guest() {
            self.vmm.terminate();
        }
    }

    /// Takes what a dead VMM has left: its last events and output.
    fn drain(&mut self, wakes: &Receiver<Wake>) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.outputs > 0 || (self.control.is_some() && !self.events_ended) {
            match wakes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Wake::Signal | Wake::ServerEnded(..)) => {}
                Ok(wake) => self.take(wake),
                Err(_) => break,
            }
        }
    }

    fn conclude(&mut self, status: io::Result<ExitStatus>) -> Outcome {
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        let words = self.last_words.get().map(|line| format!("; its last words: {line}")).unwrap_or_default();
        match self.found.take() {
            Some(Outcome::NotStarted(why)) => Outcome::NotStarted(format!("{why}{words}")),
            Some(outcome) => outcome,
            None if self.control.is_none() => Outcome::NotStarted(format!(
                "{} ended with {status} before it answered{words}",
                self.plan.hypervisor
            )),
            None => Outcome::VmmFailed(format!("{} ended with {status}{words}", self.plan.hypervisor)),
        }
    }
}

/// Tells systemd, when there is one, how a run ended.
pub fn tell_status(outcome: &Outcome) {
    let why = outcome.problems().first().map_or_else(
        || outcome.to_string(),
        |problem| format!("{}: {}", printable(&problem.path), printable(&problem.cause)),
    );
    notify(&[NotifyState::Status(&why)]);
}

/// Tells systemd, when there is one.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}
