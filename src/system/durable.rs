// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Changes on disk that take place completely or not at all.
//!
//! The order is always the same: write everything under temporary names, sync,
//! rename once, sync the directory that holds the new name.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};

/// Turns the error that a file or directory does not exist into `None`.
///
/// # Errors
/// Every other error of `result`.
pub fn if_present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Opens a directory, for syncing or listing it.
///
/// # Errors
/// When `path` does not exist or is not a directory.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Creates a directory with mode 0755, whatever the umask.
///
/// This takes two steps when the umask removes bits of that mode. A caller that
/// must not be killed between them clears its umask.
///
/// # Errors
/// When `mkdir(2)` or `chmod(2)` fails, also because `path` exists.
pub fn create_directory(path: &Path) -> io::Result<()> {
    create_directory_at(rustix::fs::CWD, path)
}

/// Creates a directory and its missing parents, each like [`create_directory`].
/// An existing directory is fine.
///
/// # Errors
/// When one of them cannot be created, or is a file.
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
/// When the file exists, or cannot be created or written.
pub fn create_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    create_file_at(rustix::fs::CWD, path, text, mode)
}

/// Like [`create_directory`], at a path beneath an open directory.
///
/// # Errors
/// Those of [`create_directory`].
pub fn create_directory_at(directory: impl AsFd, path: &Path) -> io::Result<()> {
    rustix::fs::mkdirat(&directory, path, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::chmodat(directory, path, Mode::from_raw_mode(0o755), AtFlags::empty())?)
}

/// Like [`create_file`], at a path beneath an open directory.
///
/// # Errors
/// Those of [`create_file`].
pub fn create_file_at(directory: impl AsFd, path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, path, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))
}

/// Syncs the whole file system that holds `directory`.
///
/// # Errors
/// When `directory` cannot be opened or `syncfs(2)` fails.
pub fn sync_file_system(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(open_directory(directory)?)?)
}

/// Syncs the names in a directory.
///
/// # Errors
/// When `fsync(2)` fails.
pub fn sync_directory(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(directory)?)
}

/// Replaces the file or link at `path` by a file with this text and mode.
///
/// # Errors
/// When writing, syncing or renaming fails; the old file is then still there.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    replace(path, |temporary| create_file(temporary, text, mode))
}

/// Replaces the file or link at `path` by a symbolic link to `target`.
///
/// # Errors
/// When creating, syncing or renaming fails; the old link is then still there.
pub fn replace_link(path: &Path, target: &Path) -> io::Result<()> {
    replace(path, |temporary| symlink(target, temporary))
}

/// Like [`replace_link`], for a caller that must know whether the new link is there.
///
/// # Errors
/// Those of [`replace_link`], with the old link still there. The inner result is an
/// error when the new link is there, but a crash may bring the old one back.
pub fn switch_link(path: &Path, target: &Path) -> io::Result<io::Result<()>> {
    let directory = put(path, Lasting::Yes, |temporary| symlink(target, temporary))?;
    Ok(sync_directory(directory))
}

/// Like [`replace_file`] on a file system in memory: without syncing.
///
/// # Errors
/// Those of [`replace_file`].
pub fn replace_file_in_memory(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    put(path, Lasting::No, |temporary| create_file(temporary, text, mode)).map(drop)
}

/// Like [`replace_link`] on a file system in memory: without syncing.
///
/// # Errors
/// Those of [`replace_link`].
pub fn replace_link_in_memory(path: &Path, target: &Path) -> io::Result<()> {
    put(path, Lasting::No, |temporary| symlink(target, temporary)).map(drop)
}

/// Whether a change must survive a crash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Yes,
    No,
}

fn replace(path: &Path, create: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    sync_directory(put(path, Lasting::Yes, create)?)
}

/// Replaces what is at `path`; returns its directory, which is not synced yet.
fn put(path: &Path, lasting: Lasting, create: impl Fn(&Path) -> io::Result<()>) -> io::Result<OwnedFd> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Opened before the rename, so that as little as possible can fail after it.
    let directory = open_directory(parent)?;
    let temporary = temporary_name(path)?;
    // A process of the same id was killed while it wrote.
    if_present(std::fs::remove_file(&temporary))?;
    let written = create(&temporary)
        .and_then(|()| if lasting == Lasting::Yes { Ok(rustix::fs::syncfs(&directory)?) } else { Ok(()) })
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map(|()| directory)
}

/// Removes the temporary files that killed processes have left in `directory`,
/// in which no other process replaces a file now. Those that it cannot remove stay.
pub fn remove_leftovers(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(replaced_by).is_some() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The name of the file or directory that one with a [`temporary_name`] was to replace.
pub fn replaced_by(temporary: &str) -> Option<&str> {
    let (name, process) = temporary.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    process.parse::<u32>().is_ok().then_some(name)
}

/// A name beside `path` that no other process uses.
///
/// # Errors
/// When `path` has no last name, such as `/`.
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
        // It does not replace a directory, and leaves no temporary file.
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
