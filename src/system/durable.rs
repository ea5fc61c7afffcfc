// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Changes of state on disk that are there completely, or not at all.
//!
//! The order is always the same: everything under temporary names, then
//! synced, then one rename, then the directory that holds it is synced.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

/// Opens a directory, to sync it.
///
/// # Errors
/// The system's error.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Creates a directory with mode 0755, whatever the umask.
///
/// A umask that takes something of that makes two steps of it: who must not be
/// killed between them has none.
///
/// # Errors
/// The system's error.
pub fn create_directory(path: &Path) -> io::Result<()> {
    create_directory_at(rustix::fs::CWD, path)
}

/// Like [`create_directory`], with those that it lies in; it may be there.
///
/// # Errors
/// The system's error.
pub fn ensure_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        ensure_directory(parent)?;
    }
    match create_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Writes a new file with this mode, whatever the umask. Does not sync.
///
/// # Errors
/// The system's error; also when the file exists.
pub fn create_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    create_file_at(rustix::fs::CWD, path, text, mode)
}

/// Like [`create_directory`], at a path beneath an open directory.
///
/// # Errors
/// The system's error.
pub fn create_directory_at(directory: impl AsFd, path: &Path) -> io::Result<()> {
    rustix::fs::mkdirat(&directory, path, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::chmodat(directory, path, Mode::from_raw_mode(0o755), AtFlags::empty())?)
}

/// Like [`create_file`], at a path beneath an open directory.
///
/// # Errors
/// The system's error; also when the file exists.
pub fn create_file_at(directory: impl AsFd, path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))
}

/// Syncs the whole file system that holds `directory`.
///
/// # Errors
/// The system's error.
pub fn sync_file_system(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(open_directory(directory)?)?)
}

/// Syncs what names a directory has.
///
/// # Errors
/// The system's error.
pub fn sync_directory(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(directory)?)
}

/// Puts a file with this text and mode at `path`, in the place of whatever
/// file or link is there.
///
/// # Errors
/// The system's error; the old file is then still there.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, |temporary| create_file(temporary, text, mode))
}

/// Puts a symbolic link at `path`, in the place of whatever file or link is there.
///
/// # Errors
/// The system's error; the old link is then still there.
pub fn replace_link(path: &Path, target: &Path) -> io::Result<()> {
    replace(path, |temporary| symlink(target, temporary))
}

/// Like [`replace_link`], for who must know whether the new link is there.
///
/// # Errors
/// The system's error; the old link is then still there. The result inside is the
/// system's error when the new one is there, but a crash may bring the old one back.
pub fn switch_link(path: &Path, target: &Path) -> io::Result<io::Result<()>> {
    let directory = put(path, Lasting::Yes, |temporary| symlink(target, temporary))?;
    Ok(sync_directory(directory))
}

/// Like [`replace_file`] where nothing outlives the host's running: in memory.
///
/// # Errors
/// The system's error; the old file is then still there.
pub fn replace_file_in_memory(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    put(path, Lasting::No, |temporary| create_file(temporary, text, mode)).map(drop)
}

/// Like [`replace_link`] where nothing outlives the host's running: in memory.
///
/// # Errors
/// The system's error; the old link is then still there.
pub fn replace_link_in_memory(path: &Path, target: &Path) -> io::Result<()> {
    put(path, Lasting::No, |temporary| symlink(target, temporary)).map(drop)
}

/// Whether a change must be there after a crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Yes,
    No,
}

fn replace(path: &Path, create: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    sync_directory(put(path, Lasting::Yes, create)?)
}

/// Puts something at `path`; returns the directory, which is not synced yet.
fn put(path: &Path, lasting: Lasting, create: impl Fn(&Path) -> io::Result<()>) -> io::Result<OwnedFd> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Before the rename, after which as little as can be may fail.
    let directory = open_directory(parent)?;
    let temporary = temporary_name(path)?;
    // One that is left was written by a program that was killed.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create(&temporary)
        .and_then(|()| if lasting == Lasting::Yes { Ok(rustix::fs::syncfs(&directory)?) } else { Ok(()) })
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| directory)
}

/// Removes what killed programs have left of replacing a file or link in
/// `directory`, where nobody else replaces any now. What cannot be removed stays.
pub fn remove_leftovers(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(replaced_by).is_some() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a file or directory with a [`temporary_name`] is to replace.
pub fn replaced_by(temporary: &str) -> Option<&str> {
    let (name, process) = temporary.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    process.parse::<u32>().is_ok().then_some(name)
}

/// A name beside `path` that nothing else has.
///
/// # Errors
/// When `path` has no name.
pub fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_files_and_links_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("name");
        replace_file(&path, "one", 0o600).unwrap();
        replace_file(&path, "two", 0o644).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        replace_link(&path, Path::new("elsewhere")).unwrap();
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("elsewhere"));
        // A directory is not replaced, and no temporary file stays.
        let directory = dir.path().join("directory");
        std::fs::create_dir(&directory).unwrap();
        assert!(replace_file(&directory, "x", 0o644).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn ensures_directories_that_all_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        ensure_directory(&path).unwrap();
        ensure_directory(&path).unwrap();
        assert_eq!(dir.path().join("a").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }
}
