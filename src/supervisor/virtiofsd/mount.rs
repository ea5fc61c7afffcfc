// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Mounts for the servers of shared directories, in a mount namespace of their own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags as Found;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// A directory mounted a second time, without set-user-id files and devices,
/// and without what is mounted beneath it.
#[derive(Debug)]
pub(super) struct PrivateMount {
    path: PathBuf,
    pub root: OwnedFd,
}

impl PrivateMount {
    /// Mounts `directory` at `path`, which it creates. It mounts the directory that
    /// is open, wherever that one's path leads meanwhile.
    pub fn of(directory: &OwnedFd, path: PathBuf) -> io::Result<Self> {
        // A killed predecessor's mount went with its namespace; its directory is left.
        let _ = std::fs::remove_dir(&path);
        std::fs::DirBuilder::new().create(&path)?;
        let clone =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(directory, "", clone)?;
        let flags = mount_flags(&tree)? | MountFlags::NOSUID | MountFlags::NODEV;
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &path, whole)?;
        // From here on it is unmounted again, whatever happens.
        let mount = Self { path, root: tree };
        // What is mounted beneath the directory later does not appear here, either.
        rustix::mount::mount_change(&mount.path, MountPropagationFlags::PRIVATE)?;
        rustix::mount::mount_remount(&mount.path, flags | MountFlags::BIND, "")?;
        Ok(mount)
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Mounts a complete `/proc` at `path`, which it creates, for the servers' sake.
///
/// In its own namespaces virtiofsd mounts a `/proc`, which the kernel allows only
/// to a process that sees a complete one already (`mount_too_revealing` in Linux'
/// `fs/namespace.c`); units hide parts of theirs.
///
/// # Errors
/// When the directory cannot be created, or the mount fails.
pub fn mount_whole_proc(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().create(path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", path, "proc", flags, None)?)
}

/// The flags that a mount has, which a remount would take away.
fn mount_flags(mount: &OwnedFd) -> io::Result<MountFlags> {
    let found = rustix::fs::fstatvfs(mount)?.f_flag;
    let pairs = [
        (Found::RDONLY, MountFlags::RDONLY),
        (Found::NOEXEC, MountFlags::NOEXEC),
        (Found::NOATIME, MountFlags::NOATIME),
        (Found::NODIRATIME, MountFlags::NODIRATIME),
        (Found::RELATIME, MountFlags::RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(one, _)| found.contains(*one)).map(|(_, other)| other).collect())
}
