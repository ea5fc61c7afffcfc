// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The file system of a VM's runtime directory, which bounds what the VM's user can put
//! there: `/run` belongs to the whole host.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{HostError, io_error, wayland};
use crate::base::name::VmName;
use crate::state::directory::RUNTIME_DIRECTORY;
use crate::system::durable;

/// The mount namespace of the host's init process.
const HOSTS_MOUNTS: &str = "/proc/1/ns/mnt";
/// A VM needs a few sockets and locks.
const LIMITS: &str = "size=1m,nr_inodes=256";

/// Mounts an empty file system on the runtime directory of a VM that starts. systemd gives it to
/// the VM's user.
///
/// # Errors
/// See [`HostError`].
pub(super) fn mount_runtime(name: &VmName) -> Result<(), HostError> {
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    durable::ensure_directory(&path)
        .and_then(|()| mount(&path, format!("{LIMITS},mode=0700")))
        .map_err(io_error(format!("no file system can be mounted on {}", path.display())))
}

/// Mounts an empty file system with these options on a directory, in place of one that is there.
pub(super) fn mount(path: &Path, options: String) -> io::Result<()> {
    // What a crash of systemd has left.
    unmount(path)?;
    let data = CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, data.as_c_str())?)
}

/// Removes that directory with its file system, and the one that
/// [`mount_wayland`](super::mount_wayland) has made.
///
/// # Errors
/// See [`HostError`].
pub(super) fn unmount_runtime(name: &VmName) -> Result<(), HostError> {
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    let removed = unmount(&path)
        .and_then(|()| durable::if_present(std::fs::remove_dir(&path)).map(drop))
        .map_err(io_error(format!("{} cannot be removed", path.display())));
    wayland::remove(name).and(removed)
}

pub(super) fn unmount(path: &Path) -> io::Result<()> {
    // Another process, such as one that is attached to the console, may still use it.
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // It is no mount point, or is gone.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// Leaves the unit's mount namespace for the host's.
///
/// systemd runs a unit's commands in a mount namespace also where it gives them all rights.
pub(super) fn enter() -> Result<(), HostError> {
    File::open(HOSTS_MOUNTS)
        .and_then(|host| Ok(move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Mount))?))
        .map_err(io_error("the host's mount namespace cannot be entered"))
}
