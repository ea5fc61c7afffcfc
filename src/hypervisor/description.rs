// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a hypervisor is: its VMM's command line, and what that VMM can do.
//!
//! Nothing here reads the host or talks to a VMM.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use super::RunningVmm;
use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::plan::Plan;

/// The descriptor number at which a VMM finds the pipe for its events.
pub const EVENTS_FD: i32 = 3;
/// The descriptor number at which a VMM finds the first of its files.
pub const FIRST_FILE_FD: i32 = 10;

/// One hypervisor.
pub trait Hypervisor: Sync {
    /// The programs that it needs.
    fn tools(&self, architecture: Architecture) -> &'static [Tool];

    /// Why a VM with `wayland` cannot run here, as a clause; `None` when it can.
    fn lacks_wayland(&self) -> Option<&'static str>;

    /// Whether the VMM writes its events to a pipe at [`EVENTS_FD`].
    fn writes_events(&self) -> bool;

    /// Whether the VMM ends by itself when the guest does.
    fn ends_with_guest(&self) -> bool;

    /// Whether the VMM disconnects from its virtio-fs servers when the guest is
    /// reset, and connects again: virtiofsd ends in between.
    fn reset_drops_shares(&self) -> bool;

    /// Whether the VMM ends when the guest of this plan is reset, and another is to run it.
    fn ends_on_reset(&self, plan: &Plan) -> bool;

    /// Whether passt exchanges a VM's frames with the VMM through the guest's memory
    /// (vhost-user), and not through the socket itself.
    fn uplink_is_vhost_user(&self) -> bool;

    /// How many of the host's PCI devices a VM can have, beside `own` images,
    /// shares, interfaces and devices for windows and `link_ports` ports; `None` when
    /// there are too many of these.
    fn room_for_devices(&self, own: usize, link_ports: usize) -> Option<usize>;

    /// How many ports a VM has for interfaces of links; `None` when there is no limit.
    fn ports(&self, plan: &Plan) -> Option<usize>;

    /// The VMM's program and arguments.
    ///
    /// The guest's serial console is the VMM's standard output, a pipe or a
    /// terminal that the VMM opens by name; it reads nothing from there.
    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString>;

    /// The VMM that runs this plan in the working directory; see [`super::running()`].
    fn running(&self, plan: &Plan, deadline: Instant) -> Box<dyn RunningVmm>;
}

/// What the VMM uses of the host: which files to open, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePaths {
    /// The kernel.
    pub kernel: String,
    /// The disk images, in the plan's order.
    pub images: Vec<String>,
    /// Whether the kernel moves the frames of taps itself (vhost-net).
    pub vhost_net: bool,
    /// How many bits the addresses have that the host's PCI devices of the VM can access, if
    /// that is known, see [`address_bits`](crate::plan::pci::address_bits).
    pub address_bits: Option<u8>,
}

impl FilePaths {
    /// The paths that the plan was made with, for people to read.
    pub fn of(plan: &Plan) -> Self {
        Self {
            kernel: plan.kernel.path.clone(),
            images: plan.images.iter().map(|image| image.path.clone()).collect(),
            vhost_net: false,
            address_bits: None,
        }
    }

    /// The files as descriptors that the VMM inherits, the kernel first, from
    /// [`FIRST_FILE_FD`] on: the VMM gets the very files that the supervisor
    /// opened, and no name from a VM directory reaches it.
    pub fn inherited(plan: &Plan, vhost_net: bool) -> Self {
        let path = |fd: i32| format!("/proc/self/fd/{fd}");
        Self {
            kernel: path(FIRST_FILE_FD),
            images: (FIRST_FILE_FD + 1..).take(plan.images.len()).map(path).collect(),
            vhost_net,
            address_bits: None,
        }
    }
}

/// The program of `tool` in a plan, or its bare name when the plan has no path.
pub(super) fn program(plan: &Plan, tool: Tool) -> PathBuf {
    plan.tool(tool).map_or_else(|| PathBuf::from(tool.as_str()), PathBuf::from)
}
