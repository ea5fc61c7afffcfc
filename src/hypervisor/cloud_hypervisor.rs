// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Cloud Hypervisor, version 53 (52 and later have all that is used).
//!
//! Its options are lists of `key=value`, separated by commas. A value may be
//! in double quotes, in which everything is literal but a quote, which is
//! doubled (`option_parser/src/lib.rs`, `split_commas` and `dequote`); every
//! value that could hold a name from a VM directory is written so. `--kernel`
//! and `--cmdline` are taken literally. Each option below names the page of
//! that project's documentation that it follows, relative to `docs/`.

mod api;
mod events;
mod running;

use std::ffi::OsString;
use std::time::Instant;

use super::description::{EVENTS_FD, FilePaths, Hypervisor, program};
use super::running::RunningVmm;
use crate::base::architecture::Architecture;
use crate::base::tool::Tool;
use crate::plan::pci::PciAddress;
use crate::plan::runtime::SocketNames;
use crate::plan::uplink::UplinkPlan;
use crate::plan::{InterfacePlan, Plan};

/// The slots of its bus (`pci/src/bus.rs`, `NUM_DEVICE_IDS`) without those that
/// every VM has: the bridge, the console, the source of entropy and pvpanic.
const SLOTS: usize = 32 - 4;

/// How many bits a guest's addresses have at most, unless an option says otherwise
/// (`vmm/src/vm_config.rs`, `DEFAULT_MAX_PHYS_BITS`).
const MAX_PHYS_BITS: u8 = 46;

/// Cloud Hypervisor, see the module's documentation.
pub(super) struct CloudHypervisor;

/// A value in double quotes, so that it is taken literally.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

impl Hypervisor for CloudHypervisor {
    fn tools(&self, _architecture: Architecture) -> &'static [Tool] {
        &[Tool::CloudHypervisor]
    }

    fn lacks_wayland(&self) -> Option<&'static str> {
        Some(
            "Spectrum's --gpu patch for it is not part of any release, \
             and its generic vhost-user device has no shared memory regions",
        )
    }

    fn writes_events(&self) -> bool {
        true
    }

    fn ends_with_guest(&self) -> bool {
        false
    }

    fn reset_drops_shares(&self) -> bool {
        true
    }

    fn ends_on_reset(&self, _plan: &Plan) -> bool {
        false
    }

    /// It has no other connection to a process than vhost-user.
    fn uplink_is_vhost_user(&self) -> bool {
        true
    }

    fn room_for_devices(&self, own: usize, _link_ports: usize) -> Option<usize> {
        SLOTS.checked_sub(own)
    }

    fn ports(&self, _plan: &Plan) -> Option<usize> {
        None
    }

    fn command(&self, plan: &Plan, files: &FilePaths) -> Vec<OsString> {
        let sockets = SocketNames::new(&plan.name);
        let mut args: Vec<OsString> = vec![program(plan, Tool::CloudHypervisor).into()];
        let mut option = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                args.push(name.into());
                args.extend(values.into_iter().map(OsString::from));
            }
        };
        // api.md, "REST API Location and availability".
        option("--api-socket", vec![format!("path={}", sockets.control())]);
        // api.md, "D-Bus API Interface", has the events; `--help`: "path=<path> or fd=<fd>".
        option("--event-monitor", vec![format!("fd={EVENTS_FD}")]);
        // cpu.md, "boot" and "max_phys_bits".
        let bits = files.address_bits.filter(|bits| *bits < MAX_PHYS_BITS);
        let bits = bits.map(|bits| format!(",max_phys_bits={bits}")).unwrap_or_default();
        option("--cpus", vec![format!("boot={}{bits}", plan.vcpus)]);
        // memory.md, "size" and "shared"; fs.md: virtio-fs needs shared=on.
        let shared = if plan.shared_memory { "on" } else { "off" };
        option("--memory", vec![format!("size={}M,shared={shared}", plan.memory_mib)]);
        // ../README.md, "Booting Linux": a kernel with a PVH entry point, and its command line.
        option("--kernel", vec![files.kernel.clone()]);
        option("--cmdline", vec![plan.kernel_command_line.clone()]);
        // device_model.md, "virtio-block"; without image_type=raw the image's type is
        // guessed, and its first sector protected (../release-notes.md, v51.0);
        // sparse=on (`--help`) needs a file that can be written.
        let disk = |path: &String| format!("path={},readonly=on,image_type=raw,sparse=off", quoted(path));
        option("--disk", files.images.iter().map(disk).collect());
        // fs.md, "Cloud-hypervisor setup".
        let fs = |(index, tag): (usize, &String)| {
            format!("tag={},socket={}", quoted(tag), sockets.virtiofsd(index))
        };
        option("--fs", plan.shares.iter().map(|s| &s.tag).enumerate().map(fs).collect());
        // device_model.md, "virtio-net"; a tap that exists is used as it is.
        let net = |i: &InterfacePlan| format!("tap={},mac={}", i.tap, i.mac);
        // vhost-user-net-testing.md, "Setting up VM(s)": the back end has the socket.
        let uplink = |it: &UplinkPlan| format!("vhost_user=true,socket={},mac={}", it.socket, it.mac);
        option("--net", plan.interfaces.iter().map(net).chain(plan.uplink.iter().map(uplink)).collect());
        // vfio.md, "Direct Device Assignment with Cloud Hypervisor".
        let device = |(index, device): (usize, &PciAddress)| {
            format!("path={},id=pci{index}", quoted(&format!("/sys/bus/pci/devices/{device}/")))
        };
        option("--device", plan.pci_devices.iter().enumerate().map(device).collect());
        // device_model.md, "Serial port"; a file takes output only.
        option("--serial", vec!["file=/dev/stdout".to_owned()]);
        // device_model.md, "virtio-console"; `socket=` is refused for it, the
        // terminal's name is in the answer to vm.info (api.md).
        option("--console", vec!["pty".to_owned()]);
        // ../release-notes.md, v34.0: the guest's kernel tells the VMM of its panic; and
        // v52.0: the VMM stays when the guest ends, so that its end differs from a crash.
        args.extend(["--pvpanic".into(), "--no-shutdown".into()]);
        args
    }

    fn running(&self, plan: &Plan, deadline: Instant) -> Box<dyn RunningVmm> {
        Box::new(running::Running::new(plan, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Accelerator, HypervisorName};

    #[test]
    fn a_guest_has_no_addresses_that_its_devices_cannot_access() {
        let manifest = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/checks/golden/packages/pci-devices/cloud-hypervisor/share/microvm-spectrum/manifest.json"
        ));
        let mut plan = Plan::from_manifest(manifest).unwrap();
        plan.vcpus = 2;
        let mut words = |hypervisor: HypervisorName, accelerator: Accelerator, address_bits: Option<u8>| {
            plan.accelerator = accelerator;
            let files = FilePaths { address_bits, ..FilePaths::of(&plan) };
            let words = crate::hypervisor::description(hypervisor).command(&plan, &files);
            let option = words.iter().position(|word| word == "--cpus" || word == "-cpu").unwrap();
            words[option + 1].to_str().unwrap().to_owned()
        };
        use Accelerator::{Kvm, Tcg};
        use HypervisorName::{CloudHypervisor, Qemu};
        for (hypervisor, accelerator, bits, said) in [
            (CloudHypervisor, Kvm, None, "boot=2"),
            (CloudHypervisor, Kvm, Some(39), "boot=2,max_phys_bits=39"),
            (CloudHypervisor, Kvm, Some(48), "boot=2"),
            (Qemu, Kvm, None, "host"),
            (Qemu, Kvm, Some(39), "host,host-phys-bits-limit=39"),
            (Qemu, Tcg, Some(39), "max,phys-bits=39,-tsc"),
            (Qemu, Tcg, Some(48), "max,-tsc"),
        ] {
            assert_eq!(words(hypervisor, accelerator, bits), said);
        }
    }

    #[test]
    fn quotes_so_that_everything_is_literal() {
        assert_eq!(quoted("a,b=c[d]"), "\"a,b=c[d]\"");
        assert_eq!(quoted("say \"hi\""), "\"say \"\"hi\"\"\"");
    }
}
