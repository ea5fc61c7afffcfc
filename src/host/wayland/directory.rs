// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The directories in which users' sessions bind sockets for VMs.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_NOW};

use super::super::runtime::{enter, mount, unmount};
use super::super::{HostError, io_error};
use crate::base::name::VmName;
use crate::state::directory::WAYLAND_DIRECTORY;
use crate::system::durable;

/// One socket is all that it takes. Its user could fill the host's `/run` otherwise.
const LIMITS: &str = "size=64k,nr_inodes=16";
/// The directory's mode: its group, the VM's, is that of the socket, too, and may search it.
const MODE: u32 = 0o2710;
/// The bit of the mode that says that the compositor may lack security contexts; it has no other
/// effect here. The user could set it, and so lower the protection of their own session alone.
pub(super) const WITHOUT_SECURITY_CONTEXT: u32 = 0o1000;

/// The user whose session shows the windows of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// The user id.
    pub uid: u32,
    /// Whether the compositor may lack security contexts.
    pub without_security_context: bool,
}

/// Makes the directory for a VM that runs as the user and group `vm`: a small file system of its own.
///
/// # Errors
/// See [`HostError`].
pub fn mount_wayland(name: &VmName, vm: u32, person: Person) -> Result<(), HostError> {
    enter()?;
    let path = Path::new(WAYLAND_DIRECTORY).join(name.as_str());
    make(&path, vm, person).map_err(io_error(format!("{} cannot be made", path.display())))
}

fn make(path: &Path, vm: u32, person: Person) -> io::Result<()> {
    durable::ensure_directory(path)?;
    let mode = if person.without_security_context { MODE | WITHOUT_SECURITY_CONTEXT } else { MODE };
    mount(path, format!("{LIMITS},mode={mode:o},uid={},gid={vm}", person.uid))?;
    // Nothing else reports a mount to those who watch the directory of all.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let now = Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, WAYLAND_DIRECTORY, &now, AtFlags::empty())?)
}

/// Removes the directory of a VM, if there is one. Its user can put nothing in its place.
pub(in super::super) fn remove(name: &VmName) -> Result<(), HostError> {
    let path = Path::new(WAYLAND_DIRECTORY).join(name.as_str());
    unmount(&path)
        .and_then(|()| durable::if_present(std::fs::remove_dir(&path)).map(drop))
        .map_err(io_error(format!("{} cannot be removed", path.display())))
}
