// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! QEMU.
//!
//! Everything that could hold a name from a VM directory is given as JSON
//! (`-blockdev`, `-device`, `-netdev`, `-object`: QEMU 6.2 and later), which
//! has no separators to escape. `-chardev`, `-qmp` and `-kernel` only get names
//! of our own. Options: `qemu-system-x86_64(1)`, "QEMU User Documentation".

pub mod kvm_probe;
pub mod kvm_record;
mod qmp;
mod running;
pub mod wayland_probe;

use std::ffi::OsString;
use std::time::Instant;

use serde_json::{Value, json};

use super::description::{FilePaths, Hypervisor, program};
use super::running::RunningVmm;
use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::plan::runtime::SocketNames;
use crate::plan::{Accelerator, Plan, WaylandPlan};

/// The device of a VM with `wayland`: QEMU 8.2 and later have it, if built with rutabaga.
const WAYLAND_DEVICE: &str = "virtio-gpu-rutabaga-pci";

/// QEMU, see the module's documentation.
pub(super) struct Qemu;

impl Hypervisor for Qemu {
    fn tools(&self, architecture: Architecture) -> &'static [Tool] {
        match architecture {
            Architecture::X86_64 => &[Tool::QemuX86],
            Architecture::Aarch64 => &[Tool::QemuAarch64],
        }
    }

    fn lacks_wayland(&self) -> Option<&'static str> {
        None
    }

    fn writes_events(&self) -> bool {
        false
    }

    fn ends_with_guest(&self) -> bool {
        true
    }

    fn reset_drops_shares(&self) -> bool {
        false
    }

    /// A reset leaves the contexts of virtio-gpu as they are, and the guest's new ones are refused
    /// ("invalid context id", QEMU 10).
    fn ends_on_reset(&self, plan: &Plan) -> bool {
        plan.wayland.is_some()
    }

    /// QEMU 7.2 and later also take the frames from the socket, and Debian 12's passt knows nothing else.
    fn uplink_is_vhost_user(&self) -> bool {
        false
    }

    fn room_for_devices(&self, own: usize, link_ports: usize) -> Option<usize> {
        let slots = MAX_PORT_SLOTS.min(SLOTS.saturating_sub(own));
        (slots * FUNCTIONS).checked_sub(link_ports)
    }

    fn ports(&self, plan: &Plan) -> Option<usize> {
        Some(plan.link_ports.into())
    }

    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString> {
        let tool = match plan.architecture {
            Architecture::X86_64 => Tool::QemuX86,
            Architecture::Aarch64 => Tool::QemuAarch64,
        };
        let sockets = SocketNames::new(&plan.name);
        let mut args = Arguments(vec![program(plan, tool).into()]);
        args.option("-name", format!("guest={0},process={0}", plan.name));
        args.flag("-nodefaults").flag("-no-user-config").option("-display", "none");
        // The VMM cannot start programs, change user or scheduling.
        args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        // A reboot is a reset in place, or ends the VMM; a panic ends the VM, and its event says so.
        let reboot = if self.ends_on_reset(plan) { "shutdown" } else { "reset" };
        args.option("-action", format!("reboot={reboot},shutdown=poweroff,panic=shutdown"));
        args.machine(plan, files.address_bits);
        args.option("-kernel", &files.kernel).option("-append", command_line(plan));
        // Output only: with a file behind it, nothing can be typed at the serial console.
        args.option("-chardev", "file,id=serial,path=/dev/stdout").option("-serial", "chardev:serial");
        for (index, path) in files.images.iter().enumerate() {
            args.image(index, path);
        }
        args.option("-chardev", format!("socket,id=console,path={},server=on,wait=off", sockets.console()));
        args.device(&json!({"driver": "virtio-serial-pci", "id": "serial-bus"}));
        args.device(&json!({"driver": "virtconsole", "id": "hvc0", "chardev": "console"}));
        for (index, share) in plan.shares.iter().enumerate() {
            let id = format!("virtiofs-{index}");
            args.option("-chardev", format!("socket,id={id},path={}", share.socket));
            args.device(&json!({"driver": "vhost-user-fs-pci", "chardev": id, "tag": share.tag}));
        }
        for (index, interface) in plan.interfaces.iter().enumerate() {
            let id = format!("net{index}");
            args.json("-netdev", &tap(&id, &interface.tap, files.vhost_net));
            args.device(
                &json!({"driver": "virtio-net-pci", "netdev": id, "mac": interface.mac, "romfile": ""}),
            );
        }
        if let Some(uplink) = &plan.uplink {
            let address = json!({"type": "unix", "path": uplink.socket});
            args.json(
                "-netdev",
                &json!({"type": "stream", "id": "uplink", "server": false, "addr": address}),
            );
            args.device(
                &json!({"driver": "virtio-net-pci", "netdev": "uplink", "mac": uplink.mac, "romfile": ""}),
            );
        }
        if let Some(wayland) = &plan.wayland {
            args.device(&windows(wayland, &sockets));
        }
        args.ports(plan);
        args.device(&json!({"driver": "pvpanic-pci"}));
        // Cloud Hypervisor gives every guest a source of entropy, so guests count on it.
        args.device(&json!({"driver": "virtio-rng-pci"}));
        // Two, since a QMP socket serves one client at a time.
        for socket in [sockets.supervisor(), sockets.control()] {
            args.option("-qmp", format!("unix:{socket},server=on,wait=off"));
        }
        args.0
    }

    fn running(&self, plan: &Plan, deadline: Instant) -> Box<dyn RunningVmm> {
        Box::new(running::Running::new(plan, deadline))
    }
}

/// The kernel's command line. With TCG on a busy host, a processor may stand still while the kernel
/// measures: it would panic if its timer did not tick meanwhile, and take what it loops in one tick
/// (`lpj`, here that of a slow machine) for too few. Under KVM it does not measure.
fn command_line(plan: &Plan) -> String {
    match (plan.architecture, plan.accelerator) {
        (Architecture::X86_64, Accelerator::Tcg) => {
            format!("{} no_timer_check lpj=1000000", plan.kernel_command_line)
        }
        _ => plan.kernel_command_line.clone(),
    }
}

/// The network backend of a tap that exists.
fn tap(id: &str, name: &str, vhost_net: bool) -> Value {
    let mut tap = json!({"type": "tap", "id": id, "ifname": name, "script": "no", "downscript": "no"});
    // QEMU fails when it shall use vhost-net and cannot.
    if vhost_net && let Some(tap) = tap.as_object_mut() {
        tap.insert("vhost".to_owned(), true.into());
    }
    tap
}

/// The device through which the guest speaks to a Wayland compositor, and nothing else:
/// no picture, no keyboard, no rendering ("virtio-gpu", "rutabaga" in QEMU's documentation).
fn windows(wayland: &WaylandPlan, sockets: &SocketNames) -> Value {
    json!({
        "driver": WAYLAND_DEVICE,
        "id": "wayland",
        "cross-domain": true,
        "hostmem": u64::from(wayland.memory_mib) << 20,
        "wsi": "headless",
        "wayland-socket-path": sockets.wayland(),
    })
}

/// The id of the PCI Express root port number `port`.
fn port_id(port: usize) -> String {
    format!("port{port}")
}

/// The last slot of q35's and virt's root bus that nothing else uses. The ports
/// take eight of each slot, from here down.
const PORT_SLOT: usize = 0x1d;
/// Functions in one slot (PCI Local Bus Specification).
const FUNCTIONS: usize = 8;

/// The slots of the root bus, without those of the host bridge, of q35's own devices
/// and of the three devices that every VM has.
const SLOTS: usize = 32 - 2 - 3;
/// The most slots for ports.
const MAX_PORT_SLOTS: usize = 3;

/// How many bits the addresses of TCG's guests have (`target/i386/cpu.h`, `TCG_PHYS_ADDR_BITS`).
const TCG_BITS: u8 = 40;

/// An argument vector that grows.
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

    fn json(&mut self, option: &str, value: &Value) {
        self.option(option, value.to_string());
    }

    fn device(&mut self, device: &Value) {
        self.json("-device", device);
    }

    fn machine(&mut self, plan: &Plan, address_bits: Option<u8>) {
        let machine = match plan.architecture {
            Architecture::X86_64 => "q35",
            Architecture::Aarch64 => "virt,gic-version=max",
        };
        let memory = if plan.shared_memory { ",memory-backend=memory" } else { "" };
        self.option("-machine", format!("{machine}{memory}"));
        let (accelerator, mut cpu) = match (plan.accelerator, address_bits) {
            (Accelerator::Kvm, None) => ("kvm", "host".to_owned()),
            (Accelerator::Kvm, Some(bits)) => ("kvm", format!("host,host-phys-bits-limit={bits}")),
            // No memory that is writable and executable at once, which units forbid.
            (Accelerator::Tcg, Some(bits)) if bits < TCG_BITS => {
                ("tcg,split-wx=on", format!("max,phys-bits={bits}"))
            }
            (Accelerator::Tcg, _) => ("tcg,split-wx=on", "max".to_owned()),
        };
        // Without a time stamp counter, whose frequency the kernel gets wrong by factors where the
        // processor stands still meanwhile, and after it that of its timers.
        if (plan.architecture, plan.accelerator) == (Architecture::X86_64, Accelerator::Tcg) {
            cpu += ",-tsc";
        }
        self.option("-accel", accelerator).option("-cpu", cpu);
        self.option("-smp", plan.vcpus.to_string()).option("-m", format!("{}M", plan.memory_mib));
        if plan.shared_memory {
            let bytes = u64::from(plan.memory_mib) << 20;
            self.json(
                "-object",
                &json!({"qom-type": "memory-backend-memfd", "id": "memory", "size": bytes, "share": true}),
            );
        }
    }

    fn image(&mut self, index: usize, path: &str) {
        let id = format!("disk{index}");
        self.json(
            "-blockdev",
            &json!({
                "driver": "raw",
                "node-name": id,
                "read-only": true,
                // No process writes to it. A reader's lock would let any user who may open the file
                // keep QEMU from starting.
                "file": {"driver": "file", "filename": path, "read-only": true, "locking": "off"},
            }),
        );
        self.device(&json!({"driver": "virtio-blk-pci", "drive": id}));
    }

    /// The ports for interfaces of links, which are plugged in while the VM runs;
    /// then the host's PCI devices, each in a port from which the guest cannot
    /// eject it.
    fn ports(&mut self, plan: &Plan) {
        let links = usize::from(plan.link_ports);
        for index in 0..links {
            self.device(&port(index));
        }
        for (index, device) in plan.pci_devices.iter().enumerate() {
            let mut port = port(links + index);
            if let Some(port) = port.as_object_mut() {
                port.insert("hotplug".to_owned(), false.into());
            }
            self.device(&port);
            let (id, bus) = (format!("pci{index}"), port_id(links + index));
            self.device(&json!({"driver": "vfio-pci", "id": id, "host": device, "bus": bus}));
        }
    }
}

/// A PCI Express root port.
fn port(index: usize) -> Value {
    let (slot, function) = (PORT_SLOT - index / FUNCTIONS, index % FUNCTIONS);
    json!({
        "driver": "pcie-root-port",
        "id": port_id(index),
        "bus": "pcie.0",
        "addr": format!("{slot:#x}.{function:#x}"),
        "multifunction": function == 0,
        "chassis": index + 1,
    })
}
