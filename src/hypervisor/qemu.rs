// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! QEMU.
//!
//! Everything that could hold a name from a VM directory is given as JSON
//! (`-blockdev`, `-device`, `-netdev`, `-object`: QEMU 6.2 and later), which
//! has no separators to escape. `-chardev`, `-qmp` and `-kernel` only get names
//! of our own. Options: `qemu-system-x86_64(1)`, "QEMU User Documentation".

pub mod kvm_probe;
mod qmp;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Attached, Console, Control, Events, FilePaths, Hypervisor, Unplugged, VmmEvent, program,
    vhost_net_is_usable,
};
use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::link::id::LinkId;
use crate::plan::runtime::{Lock, SocketNames};
use crate::plan::{Accelerator, Plan};

/// How long one exchange with the VMM may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// QEMU, see the module's documentation.
pub(super) struct Qemu;

fn qemu_tool(architecture: Architecture) -> Tool {
    match architecture {
        Architecture::X86_64 => Tool::QemuX86,
        Architecture::Aarch64 => Tool::QemuAarch64,
    }
}

/// Collects an argument vector.
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, option: &str) -> &mut Self {
        self.0.push(option.into());
        self
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) -> &mut Self {
        self.0.extend([option.into(), value.into()]);
        self
    }

    fn json(&mut self, option: &str, value: &Value) -> &mut Self {
        self.option(option, value.to_string())
    }
}

impl Hypervisor for Qemu {
    fn tools(&self, architecture: Architecture) -> &'static [Tool] {
        match architecture {
            Architecture::X86_64 => &[Tool::QemuX86],
            Architecture::Aarch64 => &[Tool::QemuAarch64],
        }
    }

    fn wayland_needs(&self) -> Option<&'static str> {
        Some(
            "it will need QEMU with virtio-gpu-rutabaga (cross-domain context, QEMU 8.2 and the rutabaga library) \
             and a Wayland compositor on the host",
        )
    }

    fn writes_events(&self) -> bool {
        false
    }

    fn reset_drops_shares(&self) -> bool {
        false
    }

    fn ends_with_guest(&self) -> bool {
        true
    }

    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString> {
        let sockets = SocketNames::new(&plan.name);
        let mut args = Arguments(vec![program(plan, qemu_tool(plan.architecture)).into()]);
        args.option("-name", format!("guest={0},process={0}", plan.name));
        args.flag("-nodefaults").flag("-no-user-config").option("-display", "none");
        // The VMM cannot start programs, change user or scheduling.
        args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        // A reboot is a reset in place; a panic ends the VM, and says so.
        args.option("-action", "reboot=reset,shutdown=poweroff,panic=shutdown");
        machine(plan, &mut args);
        args.option("-kernel", &files.kernel).option("-append", &plan.kernel_command_line);
        // Output only: with a file behind it, nothing can be typed at the serial console.
        args.option("-chardev", "file,id=serial,path=/dev/stdout").option("-serial", "chardev:serial");
        for (index, path) in files.images.iter().enumerate() {
            image(index, path, &mut args);
        }
        args.option("-chardev", format!("socket,id=console,path={},server=on,wait=off", sockets.console()));
        args.json("-device", &json!({"driver": "virtio-serial-pci", "id": "serial-bus"}));
        args.json("-device", &json!({"driver": "virtconsole", "id": "hvc0", "chardev": "console"}));
        for (index, share) in plan.shares.iter().enumerate() {
            let id = format!("virtiofs-{index}");
            args.option("-chardev", format!("socket,id={id},path={}", share.socket));
            args.json("-device", &json!({"driver": "vhost-user-fs-pci", "chardev": id, "tag": share.tag}));
        }
        for (index, interface) in plan.interfaces.iter().enumerate() {
            let id = format!("net{index}");
            args.json("-netdev", &tap(&id, &interface.tap, files.vhost_net));
            args.json(
                "-device",
                &json!({"driver": "virtio-net-pci", "netdev": id, "mac": interface.mac, "romfile": ""}),
            );
        }
        (0..plan.link_ports.into()).for_each(|index| port(index, true, &mut args));
        for (index, device) in plan.pci_devices.iter().enumerate() {
            let port_index = index + usize::from(plan.link_ports);
            port(port_index, false, &mut args);
            let id = format!("pci{index}");
            args.json(
                "-device",
                &json!({"driver": "vfio-pci", "id": id, "host": device, "bus": port_id(port_index)}),
            );
        }
        args.json("-device", &json!({"driver": "pvpanic-pci"}));
        // Cloud Hypervisor gives every guest a source of entropy, so guests count on it.
        args.json("-device", &json!({"driver": "virtio-rng-pci"}));
        // A QMP socket serves one client at a time.
        for socket in [sockets.supervisor(), sockets.control()] {
            args.option("-qmp", format!("unix:{socket},server=on,wait=off"));
        }
        args.0
    }

    fn attach(
        &self,
        _plan: &Plan,
        sockets: &SocketNames,
        _events: Option<File>,
        deadline: Instant,
    ) -> io::Result<Attached> {
        let client = qmp::Client::connect_to_starting(&sockets.supervisor(), deadline)?;
        let control = client.writer()?;
        Ok(Attached { events: Box::new(QmpEvents(client)), control: Box::new(QmpControl(control)) })
    }

    fn press_power_button(&self, _plan: &Plan, sockets: &SocketNames, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let _lock = Lock::take(&sockets.control_lock(), deadline)?;
        qmp::Client::connect(&sockets.control(), deadline)?.execute("system_powerdown", deadline).map(drop)
    }

    fn plug(
        &self,
        _plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let _lock = Lock::take(&sockets.control_lock(), deadline)?;
        let mut client = qmp::Client::connect(&sockets.control(), deadline)?;
        let id = device_id(link, port);
        let netdev = tap(&id, &link.provider_tap(), vhost_net_is_usable());
        client.execute_with("netdev_add", &netdev, deadline)?;
        let device = json!({
            "driver": "virtio-net-pci", "id": id, "netdev": id, "bus": port_id(port),
            "mac": link.provider_mac().to_string(), "romfile": "",
        });
        let added = client.execute_with("device_add", &device, deadline);
        if added.is_err() {
            let _ = client.execute_with("netdev_del", &json!({ "id": id }), deadline);
        }
        added.map(drop)
    }

    fn unplug(
        &self,
        _plan: &Plan,
        sockets: &SocketNames,
        port: usize,
        link: LinkId,
        timeout: Duration,
    ) -> io::Result<Unplugged> {
        let deadline = Instant::now() + timeout;
        let _lock = Lock::take(&sockets.control_lock(), deadline)?;
        let mut client = qmp::Client::connect(&sockets.control(), deadline)?;
        let id = device_id(link, port);
        let asked = client.execute_with("device_del", &json!({ "id": id }), deadline);
        // The guest lets go of it, or does not ("device_del" in the QMP reference).
        let deleted = |event: &qmp::Event| {
            event.name == "DEVICE_DELETED" && event.data.get("device").and_then(Value::as_str) == Some(&id)
        };
        let unplugged = match asked.and_then(|_| client.wait_for_event(deleted, deadline)) {
            Ok(()) => Ok(Unplugged::Free),
            // It has let go of it already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Unplugged::Free),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Unplugged::Lost),
            Err(error) => Err(error),
        };
        // This closes the tap, and cuts off a device that is still there.
        let soon = Instant::now() + EXCHANGE_TIMEOUT;
        match client.execute_with("netdev_del", &json!({ "id": id }), soon) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => unplugged,
        }
    }

    fn room_for_devices(&self, _own: usize, link_ports: usize) -> usize {
        MAX_PORTS.saturating_sub(link_ports)
    }

    fn ports(&self, plan: &Plan) -> Option<usize> {
        Some(plan.link_ports.into())
    }

    fn open_console(&self, _plan: &Plan, sockets: &SocketNames, _timeout: Duration) -> io::Result<Console> {
        Ok(Console(UnixStream::connect(sockets.console())?.into()))
    }
}

/// The network backend of a tap that exists.
fn tap(id: &str, name: &str, vhost_net: bool) -> Value {
    let mut tap = json!({"type": "tap", "id": id, "ifname": name, "script": "no", "downscript": "no"});
    // QEMU fails where it is wanted and cannot be had.
    if vhost_net && let Some(tap) = tap.as_object_mut() {
        tap.insert("vhost".to_owned(), true.into());
    }
    tap
}

/// The id of a link's network backend and device. With the port, since a device
/// that the guest does not let go of keeps its id.
fn device_id(link: LinkId, port: usize) -> String {
    format!("link-{link}-{port}")
}

/// The id of the PCI Express root port number `port`.
fn port_id(port: usize) -> String {
    format!("port{port}")
}

/// The last slot of q35's and virt's root bus that nothing else takes, from which
/// the ports go down; a slot has eight of them.
const PORT_SLOT: usize = 0x1d;
/// Functions in one slot (PCI Local Bus Specification).
const FUNCTIONS: usize = 8;

/// The most ports: three slots are left by images, shares, interfaces and the
/// three devices that every VM has.
const MAX_PORTS: usize = 3 * FUNCTIONS;

/// A port: for an interface of a link that is plugged in while the VM runs, or
/// else for a device of the host, which the guest cannot eject.
fn port(index: usize, hot_plug: bool, args: &mut Arguments) {
    let (slot, function) = (PORT_SLOT - index / FUNCTIONS, index % FUNCTIONS);
    let mut port = json!({
        "driver": "pcie-root-port",
        "id": port_id(index),
        "bus": "pcie.0",
        "addr": format!("{slot:#x}.{function:#x}"),
        "multifunction": function == 0,
        "chassis": index + 1,
    });
    if let (false, Some(port)) = (hot_plug, port.as_object_mut()) {
        port.insert("hotplug".to_owned(), false.into());
    }
    args.json("-device", &port);
}

fn machine(plan: &Plan, args: &mut Arguments) {
    let machine = match plan.architecture {
        Architecture::X86_64 => "q35",
        Architecture::Aarch64 => "virt,gic-version=max",
    };
    let memory = if plan.shared_memory { ",memory-backend=memory" } else { "" };
    args.option("-machine", format!("{machine}{memory}"));
    let (accelerator, cpu) = match plan.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // No memory that is writable and executable at once, which units forbid.
        Accelerator::Tcg => ("tcg,split-wx=on", "max"),
    };
    args.option("-accel", accelerator).option("-cpu", cpu);
    args.option("-smp", plan.vcpus.to_string()).option("-m", format!("{}M", plan.memory_mib));
    if plan.shared_memory {
        let bytes = u64::from(plan.memory_mib) << 20;
        args.json(
            "-object",
            &json!({"qom-type": "memory-backend-memfd", "id": "memory", "size": bytes, "share": true}),
        );
    }
}

fn image(index: usize, path: &str, args: &mut Arguments) {
    let id = format!("disk{index}");
    args.json(
        "-blockdev",
        &json!({
            "driver": "raw",
            "node-name": id,
            "read-only": true,
            "file": {"driver": "file", "filename": path, "read-only": true},
        }),
    );
    args.json("-device", &json!({"driver": "virtio-blk-pci", "drive": id}));
}

struct QmpEvents(qmp::Client);

impl Events for QmpEvents {
    fn next(&mut self) -> io::Result<Option<VmmEvent>> {
        while let Some(event) = self.0.next_event()? {
            // QEMU QMP Reference Manual, "RunState".
            let found = match event.name.as_str() {
                "RESET" => Some(VmmEvent::Reset),
                "GUEST_PANICKED" => Some(VmmEvent::Panicked),
                "SHUTDOWN" => Some(match event.data.get("reason").and_then(Value::as_str) {
                    Some("guest-shutdown") => VmmEvent::PoweredOff,
                    Some("guest-panic") => VmmEvent::Panicked,
                    _ => VmmEvent::Terminated,
                }),
                _ => None,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

struct QmpControl(UnixStream);

impl Control for QmpControl {
    fn press_power_button(&mut self) -> io::Result<()> {
        // The answer comes to the reader of the events, who passes it over.
        qmp::send(&mut self.0, "system_powerdown", Instant::now() + EXCHANGE_TIMEOUT)
    }
}
