// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A Cloud Hypervisor that runs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::api::Api;
use super::events::EventPipe;
use crate::hypervisor::running::{
    Attachment, Console, EXCHANGE_TIMEOUT, RunningVmm, Started, Unplugged, while_it_works,
};
use crate::plan::Plan;
use crate::plan::runtime::SocketNames;
use crate::system::poll;

/// How often a call of the API is tried while the VMM starts, and how often to look
/// whether the guest has released a device.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The VMM of a plan, until a deadline.
pub(super) struct Running {
    api: Api,
    deadline: Instant,
}

/// What the VMM has of a device that was to be plugged in.
#[derive(Debug, PartialEq, Eq)]
enum Device {
    /// It is the VM's, also after the guest's next reset.
    Plugged,
    /// The same, but the guest has ejected it by itself; until that reset it cannot be removed.
    Ejected,
    /// It is unplugged, but the guest has not released it.
    Held,
    /// There is none.
    Absent,
}

impl Running {
    pub fn new(plan: &Plan, deadline: Instant) -> Self {
        Self { api: Api::new(SocketNames::new(&plan.name).control()), deadline }
    }

    /// Waits until the API of the process with this pidfd answers.
    fn ping(&self, vmm: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
        while let Err(error) = self.api.get("vmm.ping", deadline) {
            if Instant::now() >= deadline || poll::is_readable(&vmm, Some(RETRY_INTERVAL))? {
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the VMM has of a device. `config` is what the VM is made of, the tree what the
    /// guest sees (`vmm/src/device_manager.rs`, `remove_device` and `eject_device`).
    fn find(&self, id: &str, deadline: Instant) -> io::Result<Device> {
        let info = self.api.get("vm.info", deadline)?;
        let interfaces = info.pointer("/config/net").and_then(Value::as_array);
        let has_id = |interface: &Value| interface.get("id").and_then(Value::as_str) == Some(id);
        let is_in_config = interfaces.is_some_and(|all| all.iter().any(has_id));
        let is_in_tree = info.get("device_tree").is_some_and(|tree| tree.get(id).is_some());
        Ok(match (is_in_config, is_in_tree) {
            (true, true) => Device::Plugged,
            (true, false) => Device::Ejected,
            (false, true) => Device::Held,
            (false, false) => Device::Absent,
        })
    }
}

impl RunningVmm for Running {
    fn wait_for_start(
        &self,
        vmm: BorrowedFd<'_>,
        events: Option<File>,
        works: &mut dyn FnMut() -> bool,
    ) -> io::Result<Started> {
        let pipe = events.ok_or_else(|| io::Error::other("the pipe for events is missing"))?;
        let api = self.api.clone();
        let mut events = EventPipe::new(pipe, move || api.get("vmm.ping", soon()).is_ok());
        while_it_works(self.deadline, works, |deadline| events.wait_for_boot(deadline))?;
        while_it_works(soon(), works, |deadline| self.ping(vmm, deadline))?;
        let events = std::iter::from_fn(move || events.next().transpose());
        let api = self.api.clone();
        let power_button = move || api.put("vm.power-button", None, soon());
        Ok(Started { events: Box::new(events), power_button: Box::new(power_button) })
    }

    fn press_power_button(&self) -> io::Result<()> {
        self.api.put("vm.power-button", None, self.deadline)
    }

    fn plug(&self, attachment: Attachment) -> io::Result<()> {
        // hotplug.md, "Add Network Device".
        let (id, link) = (attachment.id(), attachment.link);
        let device = json!({ "id": id, "tap": link.provider_tap(), "mac": link.provider_mac().to_string() });
        match self.find(&id, self.deadline)? {
            // An earlier call came late.
            Device::Plugged | Device::Ejected => Ok(()),
            Device::Held => Err(io::Error::other("the guest has not released the link's last interface yet")),
            Device::Absent => self.api.put("vm.add-net", Some(&device), self.deadline),
        }
    }

    fn unplug(&self, attachment: Attachment) -> io::Result<Unplugged> {
        // hotplug.md, "Remove Device": the VMM frees the slot when the guest releases
        // the device, and keeps the tap open until then.
        let (id, answered) = (attachment.id(), self.deadline + EXCHANGE_TIMEOUT);
        let mut removed = false;
        loop {
            match self.find(&id, answered)? {
                Device::Plugged if removed => {
                    return Err(io::Error::other("Cloud Hypervisor still has a device that it has removed"));
                }
                Device::Plugged => {
                    self.api.put("vm.remove-device", Some(&json!({ "id": id })), answered)?;
                    removed = true;
                }
                Device::Ejected => return Ok(Unplugged::Lost),
                Device::Held if Instant::now() >= self.deadline => return Ok(Unplugged::Lost),
                Device::Held => {}
                Device::Absent => return Ok(Unplugged::Free),
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
    }

    fn open_console(&self) -> io::Result<Console> {
        let info = self.api.get("vm.info", self.deadline)?;
        let path = info.pointer("/config/console/file").and_then(Value::as_str);
        let path =
            path.ok_or_else(|| io::Error::other("Cloud Hypervisor names no terminal for the console"))?;
        let flags = OFlags::NOCTTY.bits().cast_signed();
        Ok(Console(OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into()))
    }
}

fn soon() -> Instant {
    Instant::now() + EXCHANGE_TIMEOUT
}

#[cfg(test)]
mod tests;
