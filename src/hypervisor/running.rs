// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Talking to a VMM that runs.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::link::id::LinkId;

/// How long one short exchange with a VMM may take. On a host with nothing else to do it
/// takes milliseconds; this is for one with far too much.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// A VMM that runs in the working directory: it knows the VM's sockets and when
/// to give up. Every call but [`unplug`](Self::unplug) fails with `TimedOut` then.
pub trait RunningVmm: Send {
    /// Waits until the VMM with this pidfd answers on its control socket. `events`
    /// is the read end of the pipe for a VMM that
    /// [writes events](super::Hypervisor::writes_events). `works` says whether the VMM has
    /// done anything since it was asked before: then it gets its time once more.
    ///
    /// # Errors
    /// When the VMM ends, or does not answer in time.
    fn wait_for_start(
        &self,
        vmm: BorrowedFd<'_>,
        events: Option<File>,
        works: &mut dyn FnMut() -> bool,
    ) -> io::Result<Started>;

    /// Presses the guest's power button, for a process that is not the supervisor.
    ///
    /// # Errors
    /// When the VMM refuses it or does not answer.
    fn press_power_button(&self) -> io::Result<()>;

    /// Plugs in the provider's interface of a link. Its tap exists, and its port
    /// is free. An interface that an earlier call has plugged in, which was not answered in
    /// time, stays.
    ///
    /// # Errors
    /// When the VMM refuses it or does not answer.
    fn plug(&self, attachment: Attachment) -> io::Result<()>;

    /// Unplugs the interface of a link, if it is plugged in, and waits for the guest to
    /// release it; the VMM's answers may take longer than that by [`EXCHANGE_TIMEOUT`].
    /// QEMU's tap is unused afterwards, whatever the guest does; with Cloud Hypervisor it
    /// is when the guest has released the interface.
    ///
    /// # Errors
    /// When the VMM refuses it or does not answer.
    fn unplug(&self, attachment: Attachment) -> io::Result<Unplugged>;

    /// Opens the guest's virtio-console.
    ///
    /// # Errors
    /// When there is none, or the VMM does not name it in time.
    fn open_console(&self) -> io::Result<Console>;
}

/// A VMM that has answered for the first time.
pub struct Started {
    /// Its events from now on.
    pub events: Events,
    /// The supervisor's own way to the guest's power button.
    pub power_button: PowerButton,
}

/// The events of a VMM, each as soon as it happens; they end when the VMM does.
/// An error is a failed read, or a VMM that breaks its protocol.
pub type Events = Box<dyn Iterator<Item = io::Result<VmmEvent>> + Send>;

/// Presses the guest's power button; fails when the VMM does not take it within
/// [`EXCHANGE_TIMEOUT`].
pub type PowerButton = Box<dyn FnMut() -> io::Result<()> + Send>;

/// What a VMM reports of its guest and itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmEvent {
    /// The guest was reset and boots again.
    Reset,
    /// The guest was reset, and the VMM ends: [always](super::Hypervisor::ends_on_reset), or
    /// because it failed to reset the machine.
    EndedByReset,
    /// The guest has powered off.
    PoweredOff,
    /// The guest's kernel panicked.
    Panicked,
    /// The VMM ends without its guest's doing: of a signal or a failure.
    Terminated,
}

/// The place where the provider's interface of a link is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The link.
    pub link: LinkId,
    /// The number of the port, see [`ports`](super::Hypervisor::ports).
    pub port: usize,
}

impl Attachment {
    /// The id of its device. It names the port, too: a device that the guest does
    /// not release keeps its id, and the link may come again.
    pub(super) fn id(self) -> String {
        format!("link-{}-{}", self.link, self.port)
    }
}

/// What became of the port of an interface that was unplugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugged {
    /// The port can be used again.
    Free,
    /// The guest has not released it in time: the port is lost until it does.
    Lost,
}

/// The guest's virtio-console, opened for reading and writing.
pub struct Console(pub OwnedFd);

/// Whether this user may have the kernel move the frames of taps (vhost-net).
pub fn vhost_net_is_usable() -> bool {
    // A device node may exist without its driver.
    File::options().read(true).write(true).open("/dev/vhost-net").is_ok()
}

/// Repeats what has taken longer than until `deadline`, with as much time again, for as long
/// as the VMM `works`: deadlines are for dead VMMs, not for slow ones.
pub(super) fn while_it_works<T>(
    mut deadline: Instant,
    works: &mut dyn FnMut() -> bool,
    mut attempt: impl FnMut(Instant) -> io::Result<T>,
) -> io::Result<T> {
    let patience = deadline.saturating_duration_since(Instant::now());
    loop {
        match attempt(deadline) {
            Err(_) if Instant::now() >= deadline && works() => deadline = Instant::now() + patience,
            result => return result,
        }
    }
}

/// The error of a VMM that has not answered by the deadline.
pub(super) fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what.to_owned())
}
