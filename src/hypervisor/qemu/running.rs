// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A QEMU that runs.
//!
//! It has two control sockets, since one serves a single client at a time: the
//! supervisor keeps the first to itself, all others take turns at the second.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use serde_json::{Value, json};

use super::qmp::{self, Client, Event};
use super::{port_id, tap};
use crate::hypervisor::running::{
    Attachment, Console, EXCHANGE_TIMEOUT, RunningVmm, Started, Unplugged, VmmEvent, vhost_net_is_usable,
    while_it_works,
};
use crate::hypervisor::socket;
use crate::plan::Plan;
use crate::plan::runtime::{Lock, SocketNames};

/// Where QEMU lists the devices that have an id ("QOM" in its manual).
const DEVICES: &str = "/machine/peripheral";

/// The VMM of a plan, until a deadline.
pub(super) struct Running {
    sockets: SocketNames,
    deadline: Instant,
}

impl Running {
    pub fn new(plan: &Plan, deadline: Instant) -> Self {
        Self { sockets: SocketNames::new(&plan.name), deadline }
    }

    /// Waits for its turn at the control socket, which ends with the lock.
    fn connect(&self) -> io::Result<(Lock, Client)> {
        let lock = Lock::take(&self.sockets.control_lock(), self.deadline)?;
        Ok((lock, Client::connect(&self.sockets.control(), self.deadline)?))
    }
}

impl RunningVmm for Running {
    fn wait_for_start(
        &self,
        vmm: BorrowedFd<'_>,
        _events: Option<File>,
        works: &mut dyn FnMut() -> bool,
    ) -> io::Result<Started> {
        let socket = self.sockets.supervisor();
        let connect = |deadline| Client::connect_to_starting(vmm, &socket, deadline);
        let mut client = while_it_works(self.deadline, works, connect)?;
        let mut writer = client.writer()?;
        let events = std::iter::from_fn(move || next_event(&mut client).transpose());
        // The reader of the events receives the answer, and passes over it.
        let power_button =
            move || qmp::send(&mut writer, "system_powerdown", Instant::now() + EXCHANGE_TIMEOUT);
        Ok(Started { events: Box::new(events), power_button: Box::new(power_button) })
    }

    fn press_power_button(&self) -> io::Result<()> {
        let (_lock, mut client) = self.connect()?;
        client.execute("system_powerdown", self.deadline).map(drop)
    }

    fn plug(&self, attachment: Attachment) -> io::Result<()> {
        let (_lock, mut client) = self.connect()?;
        let (id, link) = (attachment.id(), attachment.link);
        let netdev = tap(&id, &link.provider_tap(), vhost_net_is_usable());
        if let Err(error) = client.execute_with("netdev_add", &netdev, self.deadline) {
            // An earlier call may have come late, with all that it does or with this alone.
            let devices = client.execute_with("qom-list", &json!({ "path": DEVICES }), self.deadline)?;
            let has_id = |device: &Value| device.get("name").and_then(Value::as_str) == Some(&id);
            if devices.as_array().is_some_and(|all| all.iter().any(has_id)) {
                return Ok(());
            }
            client.execute_with("netdev_del", &json!({ "id": id }), self.deadline).map_err(|_| error)?;
            client.execute_with("netdev_add", &netdev, self.deadline)?;
        }
        let device = json!({
            "driver": "virtio-net-pci", "id": id, "netdev": id, "bus": port_id(attachment.port),
            "mac": link.provider_mac().to_string(), "romfile": "",
        });
        let added = client.execute_with("device_add", &device, self.deadline);
        if added.is_err() {
            let _ = client.execute_with("netdev_del", &json!({ "id": id }), self.deadline);
        }
        added.map(drop)
    }

    fn unplug(&self, attachment: Attachment) -> io::Result<Unplugged> {
        let (_lock, mut client) = self.connect()?;
        let id = attachment.id();
        let unplugged = match delete_device(&mut client, &id, self.deadline) {
            Ok(()) => Unplugged::Free,
            // The guest has released it already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Unplugged::Free,
            // It does not in time, or was asked before. A QEMU that is gone says so below.
            Err(_) => Unplugged::Lost,
        };
        // This closes the tap, and cuts off a device that is still there.
        let soon = Instant::now() + EXCHANGE_TIMEOUT;
        match client.execute_with("netdev_del", &json!({ "id": id }), soon) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(unplugged),
        }
    }

    fn open_console(&self) -> io::Result<Console> {
        Ok(Console(socket::connect(&self.sockets.console(), self.deadline)?.into()))
    }
}

/// Asks the guest to release a device and waits until it has ("device_del" in
/// the QMP reference).
fn delete_device(client: &mut Client, id: &str, deadline: Instant) -> io::Result<()> {
    client.execute_with("device_del", &json!({ "id": id }), deadline)?;
    let deleted = |event: &Event| {
        event.name == "DEVICE_DELETED" && event.data.get("device").and_then(Value::as_str) == Some(id)
    };
    client.wait_for_event(deleted, deadline)
}

/// The next event that matters, see the QEMU QMP Reference Manual, "RunState".
fn next_event(client: &mut Client) -> io::Result<Option<VmmEvent>> {
    while let Some(event) = client.next_event()? {
        match event.name.as_str() {
            "RESET" => return Ok(Some(VmmEvent::Reset)),
            "GUEST_PANICKED" => return Ok(Some(VmmEvent::Panicked)),
            "SHUTDOWN" => {
                return Ok(Some(match event.data.get("reason").and_then(Value::as_str) {
                    Some("guest-shutdown") => VmmEvent::PoweredOff,
                    Some("guest-panic") => VmmEvent::Panicked,
                    Some("guest-reset" | "host-qmp-system-reset") => VmmEvent::EndedByReset,
                    _ => VmmEvent::Terminated,
                }));
            }
            _ => {}
        }
    }
    Ok(None)
}
