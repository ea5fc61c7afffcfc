// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The hypervisors: one module each, behind one small interface.
//!
//! A hypervisor's module turns a [`Plan`] into the argument vector of its
//! virtual machine monitor (VMM) and knows how to talk to the running VMM.
//! Adding a hypervisor means adding a module and its lines in [`HypervisorName`].

mod cloud_hypervisor;
mod qemu;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use qemu::kvm_probe;

use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::link::id::LinkId;
use crate::plan::runtime::SocketNames;
use crate::plan::{HypervisorName, Plan};

impl HypervisorName {
    /// The module behind the name.
    pub fn implementation(self) -> &'static dyn Hypervisor {
        match self {
            Self::CloudHypervisor => &cloud_hypervisor::CloudHypervisor,
            Self::Qemu => &qemu::Qemu,
        }
    }
}

/// The descriptor number at which a VMM finds the pipe for its events.
pub const EVENTS_FD: i32 = 3;
/// The descriptor number at which a VMM finds the first of its files.
pub const FIRST_FILE_FD: i32 = 10;

/// What the VMM uses of the host: which files to open, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePaths {
    /// The kernel.
    pub kernel: String,
    /// The disk images, in the plan's order.
    pub images: Vec<String>,
    /// Whether the kernel moves the frames of links itself (vhost-net).
    pub vhost_net: bool,
}

/// Whether this user may have the kernel move the frames of taps (vhost-net).
pub fn vhost_net_is_usable() -> bool {
    // A device without its module can be seen, and not opened.
    File::options().read(true).write(true).open("/dev/vhost-net").is_ok()
}

impl FilePaths {
    /// The paths that the plan was made with, for reading.
    pub fn of(plan: &Plan) -> Self {
        Self {
            kernel: plan.kernel.path.clone(),
            images: plan.images.iter().map(|image| image.path.clone()).collect(),
            vhost_net: false,
        }
    }

    /// The files as descriptors that the VMM inherits, the kernel first, from
    /// [`FIRST_FILE_FD`] on: what the supervisor opened is what the VMM gets,
    /// and no name from a VM directory reaches it.
    pub fn inherited(plan: &Plan) -> Self {
        let path = |fd: i32| format!("/proc/self/fd/{fd}");
        Self {
            kernel: path(FIRST_FILE_FD),
            images: (FIRST_FILE_FD + 1..).take(plan.images.len()).map(path).collect(),
            vhost_net: vhost_net_is_usable(),
        }
    }
}

/// What happens to a running VM, as its VMM tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmmEvent {
    /// The guest was reset and starts again.
    Reset,
    /// The guest is powered off.
    PoweredOff,
    /// The guest's kernel panicked.
    Panicked,
    /// Somebody told the VMM to end, without the guest.
    Terminated,
}

/// The stream of a VMM's events.
pub trait Events: Send {
    /// The next event, as soon as there is one; `None` when the VMM is gone.
    ///
    /// # Errors
    /// The system's error, or a VMM that does not keep to its protocol.
    fn next(&mut self) -> io::Result<Option<VmmEvent>>;
}

/// The supervisor's own control of a running VMM.
pub trait Control: Send {
    /// Presses the guest's power button.
    ///
    /// # Errors
    /// When the VMM did not take it in time.
    fn press_power_button(&mut self) -> io::Result<()>;
}

/// A VMM that answered for the first time.
pub struct Attached {
    /// Its events from now on.
    pub events: Box<dyn Events>,
    /// Its control.
    pub control: Box<dyn Control>,
}

/// The guest's virtio-console, opened for reading and writing.
pub struct Console(pub OwnedFd);

/// What has become of the port of an interface that was unplugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplugged {
    /// It can be used again.
    Free,
    /// The guest has not let go of it in time: it is lost until the VM ends.
    Lost,
}

/// One hypervisor.
pub trait Hypervisor: Sync {
    /// The programs that it takes.
    fn tools(&self, architecture: Architecture) -> &'static [Tool];

    /// What a VM with `wayland` would need here; `None` when it just works.
    fn wayland_needs(&self) -> Option<&'static str>;

    /// Whether the VMM writes its events to a pipe at [`EVENTS_FD`].
    fn writes_events(&self) -> bool;

    /// Whether the VMM ends by itself when the guest does.
    fn ends_with_guest(&self) -> bool;

    /// Whether the VMM leaves its virtio-fs servers when the guest is reset and
    /// connects again: virtiofsd ends then.
    fn reset_drops_shares(&self) -> bool;

    /// The VMM's program and arguments.
    ///
    /// Its standard output must be the guest's serial console, a pipe or a
    /// terminal, opened by name; nothing is read from there.
    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString>;

    /// Waits until the VMM's control socket answers, or until `deadline`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, else why there is no talking to the VMM.
    fn attach(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        events: Option<File>,
        deadline: Instant,
    ) -> io::Result<Attached>;

    /// Presses the guest's power button, for everybody but the supervisor.
    ///
    /// # Errors
    /// When the VMM did not take it within `timeout`.
    fn press_power_button(&self, plan: &Plan, sockets: &SocketNames, timeout: Duration) -> io::Result<()>;

    /// Plugs the provider's interface of a link into the running VM, into the
    /// port number `port`, which must be free; its tap exists.
    ///
    /// # Errors
    /// When the VMM did not take it within `timeout`.
    fn plug(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<()>;

    /// Unplugs the interface of a link; its tap is not used any more afterwards,
    /// whatever the guest does.
    ///
    /// # Errors
    /// When the VMM did not take it. Takes little more than `timeout`.
    fn unplug(
        &self,
        plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<Unplugged>;

    /// How many of the host's PCI devices a VM can have, beside `own` images,
    /// shares and interfaces and `link_ports` ports.
    fn room_for_devices(&self, own: usize, link_ports: usize) -> usize;

    /// How many ports there are; `None` when each interface gets a new number.
    fn ports(&self, plan: &Plan) -> Option<usize>;

    /// Opens the guest's virtio-console.
    ///
    /// # Errors
    /// When there is none, or it is not told within `timeout`.
    fn open_console(&self, plan: &Plan, sockets: &SocketNames, timeout: Duration) -> io::Result<Console>;
}

/// The program of `tool` in a plan, or its bare name for lack of a path.
fn program(plan: &Plan, tool: Tool) -> PathBuf {
    plan.tool(tool).map_or_else(|| PathBuf::from(tool.as_str()), PathBuf::from)
}

/// An error that says that a deadline has passed.
fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what.to_owned())
}
