// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The file system of a VM's runtime directory, which bounds what the VM's user can put
//! there: `/run` belongs to the whole host.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{HostError, io_error, wayland};
use crate::base::name::VmName;
use crate::state::directory::RUNTIME_DIRECTORY;

/// The mount namespace of the host's init process.
const HOSTS_MOUNTS: &str = "/proc/1/ns/mnt";
/// A VM needs a few sockets and locks.
const LIMITS: &str = "size=1m,nr_inodes=256";

/// Mounts an empty file system on the runtime directory that systemd has
/// made for a VM, with the same owner.
///
/// # Errors
/// See [`HostError`].
pub fn mount_runtime(name: &VmName) -> Result<(), HostError> {
    enter()?;
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    let mounted = own_by_its_owner(&path);
    mounted.map_err(io_error(format!("no file system can be mounted on {}", path.display())))
}

fn own_by_its_owner(path: &Path) -> io::Result<()> {
    // Its parent is root's, so the VM's user cannot replace it.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let owner = rustix::fs::fstat(rustix::fs::open(path, flags, Mode::empty())?)?;
    mount(path, format!("{LIMITS},mode=0700,uid={},gid={}", owner.st_uid, owner.st_gid))
}

/// Mounts an empty file system with these options on a directory, in place of one that is there.
pub(super) fn mount(path: &Path, options: String) -> io::Result<()> {
    // What a crash of systemd has left.
    unmount(path)?;
    let data = CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, data.as_c_str())?)
}

/// Unmounts that file system, if it is mounted, and removes the directory that
/// [`mount_wayland`](super::mount_wayland) has made.
///
/// # Errors
/// See [`HostError`].
pub fn unmount_runtime(name: &VmName) -> Result<(), HostError> {
    enter()?;
    let path = Path::new(RUNTIME_DIRECTORY).join(name.as_str());
    let unmounted = unmount(&path).map_err(io_error(format!("{} cannot be unmounted", path.display())));
    wayland::remove(name).and(unmounted)
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
