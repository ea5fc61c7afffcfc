// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Handing PCI devices of the host to VFIO, for a VM's user alone.
//!
//! The kernel isolates an IOMMU group from the rest of the host: a VM gets all devices
//! of a group, or none (Linux' `Documentation/driver-api/vfio.rst`). They stay with
//! VFIO when the VM has stopped, as under microvm.nix: a driver of the host would find
//! them in the state in which the guest left them.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::{Environment, HostError, become_trusted, trusted_package};
use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::package::{Script, Whose, whose};
use crate::plan::pci::{self, PciAddress};
use crate::state::directory::StateDirectory;

/// The driver that hands devices to user space.
const VFIO: &str = "vfio-pci";
/// The base class of bridges, and the class of those between PCI buses (PCI Code
/// and ID Assignment Specification).
const BRIDGE: u32 = 0x06;
const PCI_BRIDGE: u32 = 0x0604;
/// Only its owner can open a group's node.
const NODE_MODE: u32 = 0o600;

/// Hands a VM's PCI devices to VFIO and to the VM's user. With another program's
/// package, this process becomes the package's script.
///
/// # Errors
/// See [`HostError`].
pub fn pci_setup(state: &StateDirectory, name: &VmName, environment: &Environment) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    let environment = &environment.for_vm(name)?;
    match whose(&package, Script::PciSetup)? {
        Whose::Ours(plan) => pci_setup_devices(&plan.pci_devices, environment),
        // Files name no PCI devices: without its script, a package gets an error.
        Whose::Script(_) | Whose::Files(_) => {
            Err(become_trusted(&Script::PciSetup.within(&package), environment))
        }
    }
}

/// Takes the IOMMU groups of a VM's PCI devices from the VM's user; the devices stay
/// with VFIO.
///
/// # Errors
/// See [`HostError`].
pub fn pci_release(
    state: &StateDirectory,
    name: &VmName,
    environment: &Environment,
) -> Result<(), HostError> {
    match whose(&trusted_package(state, name)?, Script::PciSetup)? {
        Whose::Ours(plan) => {
            let user = environment.for_vm(name)?.vm_user()?;
            Kernel::of_this_host().take_back(&plan.pci_devices, user).map_err(HostError::Devices)
        }
        Whose::Script(_) | Whose::Files(_) => Ok(()),
    }
}

/// Hands these devices to VFIO and to the VM's user.
///
/// # Errors
/// See [`HostError`].
pub fn pci_setup_devices(devices: &[PciAddress], environment: &Environment) -> Result<(), HostError> {
    Kernel::of_this_host().hand_over(devices, environment.vm_user()?).map_err(HostError::Devices)
}

/// Where the kernel shows its devices and takes commands. Tests have a directory of
/// their own.
struct Kernel {
    sys: PathBuf,
    vfio: PathBuf,
    /// Writes a command to a file of `sys`.
    command: fn(&Path, &str) -> io::Result<()>,
}

impl Kernel {
    fn of_this_host() -> Self {
        Self { sys: pci::SYS.into(), vfio: "/dev/vfio".into(), command: write }
    }

    /// Gives `user` these devices. Checks everything before it changes anything, and
    /// changes only what differs.
    fn hand_over(&self, devices: &[PciAddress], user: u32) -> Result<(), Problems> {
        let mut problems = Problems::default();
        // Only root can open this file, and so hold this lock.
        let probe = self.sys.join("bus/pci/drivers_probe");
        let lock = File::options().write(true).open(&probe).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        if let Err(error) = &lock {
            problems.error(&probe, format!("cannot be written: {error}"), "run this as root");
        }
        if !self.sys.join("bus/pci/drivers").join(VFIO).is_dir() {
            problems.error(
                self.sys.join("bus/pci/drivers").join(VFIO),
                format!("does not exist: the driver {VFIO} is not loaded"),
                format!(
                    "modprobe {VFIO}; a file in /etc/modules-load.d with that name loads it at each boot"
                ),
            );
        }
        let groups = self.groups(devices, &mut problems);
        for (group, members) in &groups {
            self.check_group(*group, members, user, &mut problems);
        }
        problems.or(())?;
        let mut problems = Problems::default();
        problems.extend(devices.iter().filter_map(|device| self.bind(*device).err()));
        problems.or(())?;
        let mut problems = Problems::default();
        problems.extend(groups.keys().filter_map(|group| self.give(*group, user).err()));
        problems.or(())
    }

    /// The groups of the devices, and which of the devices are in each.
    fn groups(&self, devices: &[PciAddress], problems: &mut Problems) -> BTreeMap<u32, Vec<PciAddress>> {
        let mut groups: BTreeMap<u32, Vec<PciAddress>> = BTreeMap::new();
        pci::check_present(&self.sys, devices, problems);
        for device in devices {
            let directory = pci::directory(&self.sys, *device);
            if !directory.is_dir() {
                continue;
            }
            match class(&directory) {
                Ok(class) if class >> 8 == BRIDGE => problems.error(
                    &directory,
                    format!("is a bridge (class {class:04x}), which the host needs"),
                    "list the devices behind it instead",
                ),
                Ok(_) => {}
                Err(problem) => problems.push(problem),
            }
            match self.group(*device) {
                Ok(group) => groups.entry(group).or_default().push(*device),
                Err(problem) => problems.push(problem),
            }
        }
        groups
    }

    /// The number of a device's IOMMU group.
    fn group(&self, device: PciAddress) -> Result<u32, Problem> {
        let link = pci::directory(&self.sys, device).join("iommu_group");
        let unknown = |cause: String, remedy: &str| Problem::error(&link, cause, remedy);
        match std::fs::read_link(&link) {
            Ok(target) => target
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
                .ok_or_else(|| unknown("does not lead to an IOMMU group".to_owned(), "report this bug")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(
                format!(
                    "does not exist: the device {device} is in no IOMMU group, so it could access the host's memory"
                ),
                "enable VT-d or AMD-Vi in the firmware's settings; VT-d also needs intel_iommu=on on the kernel's command line",
            )),
            Err(error) => Err(unknown(format!("cannot be read: {error}"), "run this as root")),
        }
    }

    /// Checks that neither the host nor another VM uses a group of which this VM gets
    /// `devices`.
    fn check_group(&self, group: u32, devices: &[PciAddress], user: u32, problems: &mut Problems) {
        let directory = self.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
        let members = match names(&directory) {
            Ok(members) => members,
            Err(error) => {
                problems.error(directory, format!("cannot be read: {error}"), "run this as root");
                return;
            }
        };
        let foreign = foreign(&directory, &members, devices, problems);
        if !foreign.is_empty() {
            problems.error(
                &directory,
                format!(
                    "a VM gets an IOMMU group as a whole, but the host uses {}; its members are {}",
                    foreign.join(", "),
                    members.join(", ")
                ),
                "add these to the VM's devices, or unbind them from their drivers",
            );
        }
        let node = self.node(group);
        if let Ok(found) = node.symlink_metadata()
            && ![0, user].contains(&found.uid())
        {
            problems.error(
                node,
                format!(
                    "belongs to user {}: another VM uses devices of IOMMU group {group}, whose members are {}",
                    found.uid(),
                    members.join(", ")
                ),
                "stop that VM, or give the whole group to one VM",
            );
        }
    }

    /// Binds a device to VFIO's driver.
    fn bind(&self, device: PciAddress) -> Result<(), Problem> {
        let directory = pci::directory(&self.sys, device);
        let failed = |path: &Path, error: io::Error| {
            Problem::error(
                path,
                format!("cannot be changed: {error}"),
                "look for the kernel's reason in dmesg",
            )
        };
        let command =
            |path: PathBuf, text: &str| (self.command)(&path, text).map_err(|error| failed(&path, error));
        let present = || driver(&directory).map_err(|error| failed(&directory, error));
        // From here on no other driver can take it, not even in between.
        command(directory.join("driver_override"), VFIO)?;
        if present()?.as_deref() == Some(VFIO) {
            return Ok(());
        }
        let bind = || {
            if present()?.is_some() {
                command(directory.join("driver/unbind"), &device.to_string())?;
            }
            command(self.sys.join("bus/pci/drivers_probe"), &device.to_string())?;
            match present()? {
                Some(driver) if driver == VFIO => Ok(()),
                found => Err(Problem::error(
                    &directory,
                    format!(
                        "has {} and not {VFIO}",
                        found.map_or("no driver".to_owned(), |d| format!("the driver {d}"))
                    ),
                    "look for the kernel's reason in dmesg",
                )),
            }
        };
        bind().inspect_err(|_| {
            // Lets the host's own driver take it again.
            let _ = command(directory.join("driver_override"), "\n");
            if present().is_ok_and(|driver| driver.is_none()) {
                let _ = command(self.sys.join("bus/pci/drivers_probe"), &device.to_string());
            }
        })
    }

    /// Gives a group's node to a user.
    fn give(&self, group: u32, user: u32) -> Result<(), Problem> {
        let node = self.node(group);
        let set = || {
            if node.symlink_metadata()?.is_symlink() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // In this order, so that no third user can open it at any moment.
            std::fs::set_permissions(&node, Permissions::from_mode(NODE_MODE))?;
            lchown(&node, Some(user), None)
        };
        set().map_err(|error| {
            Problem::error(
                &node,
                format!("cannot be given to user {user}: {error}"),
                "run this as root, outside of containers",
            )
        })
    }

    /// Gives the groups that this user owns to root.
    fn take_back(&self, devices: &[PciAddress], user: u32) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for group in devices.iter().filter_map(|device| self.group(*device).ok()) {
            let owner = self.node(group).symlink_metadata().map(|found| found.uid());
            if owner.is_ok_and(|owner| owner == user) {
                problems.extend(self.give(group, 0).err());
            }
        }
        problems.or(())
    }

    fn node(&self, group: u32) -> PathBuf {
        self.vfio.join(group.to_string())
    }
}

/// Those members of a group that are not among `devices` and that the host uses, with
/// their drivers.
fn foreign(group: &Path, members: &[String], devices: &[PciAddress], problems: &mut Problems) -> Vec<String> {
    let listed = |name: &str| name.parse().is_ok_and(|address: PciAddress| devices.contains(&address));
    let mut foreign = Vec::new();
    for member in members.iter().filter(|name| !listed(name)) {
        let path = group.join(member);
        match driver(&path) {
            // VFIO leaves them to the host.
            _ if class(&path).is_ok_and(|class| class == PCI_BRIDGE) => {}
            Ok(None) => {}
            Ok(Some(driver)) if driver == VFIO => {}
            Ok(Some(driver)) => foreign.push(format!("{member} (driver {driver})")),
            Err(error) => problems.error(path, format!("cannot be read: {error}"), "run this as root"),
        }
    }
    foreign
}

/// Writes to a file of sysfs, in one call as sysfs requires.
fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// The sorted names in a directory. One that is not UTF-8, which the kernel never has,
/// is shown in a form that is not an address.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>();
    names.map(|mut names| {
        names.sort_unstable();
        names
    })
}

/// A device's class: base class and sub-class, without the programming interface.
fn class(device: &Path) -> Result<u32, Problem> {
    let file = device.join("class");
    let text = std::fs::read_to_string(&file);
    let class = text.as_deref().ok().and_then(|text| {
        let digits = text.trim_end().strip_prefix("0x")?;
        u32::from_str_radix(digits, 16).ok()
    });
    class.map(|class| class >> 8).ok_or_else(|| {
        let why =
            text.map_or_else(|error| format!("cannot be read: {error}"), |_| "is not a PCI class".to_owned());
        Problem::error(file, why, "report this bug")
    })
}

/// The name of a device's driver, if it has one.
fn driver(device: &Path) -> io::Result<Option<String>> {
    match std::fs::read_link(device.join("driver")) {
        Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
