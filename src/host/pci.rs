// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Handing PCI devices of the host to VFIO, for a VM's user alone.
//!
//! What the kernel isolates from the rest of the host is an IOMMU group: a VM
//! gets all devices of one, or none (Linux' `Documentation/driver-api/vfio.rst`).
//! They stay with VFIO when the VM has stopped, as microvm.nix does it: a driver
//! of the host would have to cope with whatever the guest has left in them.

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
/// A group's node is for one user, and for nobody besides.
const NODE_MODE: u32 = 0o600;

/// Hands a VM's PCI devices to VFIO and to the VM's user. A package that is not
/// this program's brings a script, which this process becomes.
///
/// # Errors
/// See [`HostError`].
pub fn pci_setup(state: &StateDirectory, name: &VmName, environment: &Environment) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    match whose(&package, Script::PciSetup)? {
        Whose::Ours(plan) => pci_setup_devices(&plan.pci_devices, environment),
        // Its files alone hand nothing over: that the script is missing is an error.
        Whose::Script(_) | Whose::Files(_) => Err(become_trusted(&Script::PciSetup.within(&package))),
    }
}

/// Takes the groups of a VM's PCI devices from the VM's user; they stay with VFIO.
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
            let taken = Kernel::of_this_host().take_back(&plan.pci_devices, environment.vm_user()?);
            taken.map_err(HostError::Devices)
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

/// Where the kernel shows its devices and takes orders; tests have one of their own.
struct Kernel {
    sys: PathBuf,
    vfio: PathBuf,
    /// Gives an order: writes a text to a file of `sys`.
    order: fn(&Path, &str) -> io::Result<()>,
}

impl Kernel {
    fn of_this_host() -> Self {
        Self { sys: pci::SYS.into(), vfio: "/dev/vfio".into(), order: write }
    }

    /// Checks everything before anything is changed; what is as it should be is
    /// left alone.
    fn hand_over(&self, devices: &[PciAddress], user: u32) -> Result<(), Problems> {
        let mut problems = Problems::default();
        // Only root can open this file, and so hold this lock.
        let probe = self.sys.join("bus/pci/drivers_probe");
        let lock = File::options().write(true).open(&probe).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        if let Err(error) = &lock {
            problems.error(&probe, format!("cannot be written: {error}"), "call this as root");
        }
        if !self.sys.join("bus/pci/drivers").join(VFIO).is_dir() {
            problems.error(
                self.sys.join("bus/pci/drivers").join(VFIO),
                format!("does not exist: the driver {VFIO} is not loaded"),
                format!("modprobe {VFIO}; with a line {VFIO} in /etc/modules-load.d it is at each boot"),
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
                    format!("is a bridge (class {class:04x}), which the host itself needs"),
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
                .ok_or_else(|| unknown("leads to no IOMMU group".to_owned(), "report this")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unknown(
                format!(
                    "does not exist: the device {device} is in no IOMMU group, so nothing keeps it from the host's memory"
                ),
                "enable VT-d or AMD-Vi in the firmware's settings; Intel's needs intel_iommu=on on the kernel's command line, too",
            )),
            Err(error) => Err(unknown(format!("cannot be read: {error}"), "call this as root")),
        }
    }

    /// Checks that nobody but this VM uses a group of which it gets `devices`.
    fn check_group(&self, group: u32, devices: &[PciAddress], user: u32, problems: &mut Problems) {
        let directory = self.sys.join("kernel/iommu_groups").join(group.to_string()).join("devices");
        let members = match names(&directory) {
            Ok(members) => members,
            Err(error) => {
                problems.error(directory, format!("cannot be read: {error}"), "call this as root");
                return;
            }
        };
        let listed = |name: &str| name.parse().is_ok_and(|address: PciAddress| devices.contains(&address));
        let mut foreign = Vec::new();
        for member in members.iter().filter(|name| !listed(name)) {
            let path = directory.join(member);
            match driver(&path) {
                // VFIO itself leaves them to the host.
                _ if class(&path).is_ok_and(|class| class == PCI_BRIDGE) => {}
                Ok(None) => {}
                Ok(Some(driver)) if driver == VFIO => {}
                Ok(Some(driver)) => foreign.push(format!("{member} (driver {driver})")),
                Err(error) => problems.error(path, format!("cannot be read: {error}"), "call this as root"),
            }
        }
        if !foreign.is_empty() {
            problems.error(
                &directory,
                format!(
                    "an IOMMU group goes to a VM as a whole, and the host uses {}; its members are {}",
                    foreign.join(", "),
                    members.join(", ")
                ),
                "list those in the VM's devices, too, or take their drivers from them",
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
                "stop that VM, or give all of them to one VM",
            );
        }
    }

    /// Changes a device's driver to VFIO's.
    fn bind(&self, device: PciAddress) -> Result<(), Problem> {
        let directory = pci::directory(&self.sys, device);
        let failed = |path: &Path, error: io::Error| {
            Problem::error(path, format!("cannot be changed: {error}"), "see what the kernel says: dmesg")
        };
        let order =
            |path: PathBuf, text: &str| (self.order)(&path, text).map_err(|error| failed(&path, error));
        let present = || driver(&directory).map_err(|error| failed(&directory, error));
        // No other driver takes it from here on, not even in between.
        order(directory.join("driver_override"), VFIO)?;
        if present()?.as_deref() == Some(VFIO) {
            return Ok(());
        }
        let bind = || {
            if present()?.is_some() {
                order(directory.join("driver/unbind"), &device.to_string())?;
            }
            order(self.sys.join("bus/pci/drivers_probe"), &device.to_string())?;
            match present()? {
                Some(driver) if driver == VFIO => Ok(()),
                found => Err(Problem::error(
                    &directory,
                    format!(
                        "has {} and not {VFIO}",
                        found.map_or("no driver".to_owned(), |d| format!("the driver {d}"))
                    ),
                    "see what the kernel says: dmesg",
                )),
            }
        };
        bind().inspect_err(|_| {
            // Back to the driver that the host has for it.
            let _ = order(directory.join("driver_override"), "\n");
            if present().is_ok_and(|driver| driver.is_none()) {
                let _ = order(self.sys.join("bus/pci/drivers_probe"), &device.to_string());
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
            // Nobody else's at any moment.
            std::fs::set_permissions(&node, Permissions::from_mode(NODE_MODE))?;
            lchown(&node, Some(user), None)
        };
        set().map_err(|error| {
            Problem::error(
                &node,
                format!("cannot be given to user {user}: {error}"),
                "call this as root, outside of containers",
            )
        })
    }

    /// Gives back to root the groups that this user has.
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

/// Writes to a file of sysfs, in one call as it wants it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// The sorted names in a directory. The kernel's own are plain; of others a
/// printable form is told and matches nothing.
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
        let why = text.map_or_else(|error| format!("cannot be read: {error}"), |_| "is no class".to_owned());
        Problem::error(file, why, "report this")
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
