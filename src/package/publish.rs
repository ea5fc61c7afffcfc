// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Putting a package on disk: complete, or not at all.
//!
//! It writes everything under a temporary name beside the output, calls `syncfs(2)`
//! once, renames, and syncs the parent directory. A crash at any moment leaves the old
//! package or the new one, and at most a temporary directory whose name begins with a
//! dot.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::whose::is_ours;
use super::{Entry, Package};
use crate::base::problem::{Problem, is_hosts};
use crate::plan::Plan;
use crate::system::durable::{
    create_directory, create_directory_at, create_file_at, if_present, open_directory, sync_directory,
    sync_file_system,
};

/// Why a package was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output exists.
    #[error("{} exists; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// The output exists and is not a package.
    #[error("{} exists and is not a runner package; move it away or choose another output", .0.display())]
    NotAPackage(PathBuf),
    /// The output has no name, for example `/`.
    #[error("{} has no name; name a directory that does not exist yet", .0.display())]
    NoName(PathBuf),
    /// A file or directory cannot be written.
    #[error("{} cannot be written: {error}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// The problem of an output that the VM's own guest could rewrite, because it lies in
/// one of the VM's shared directories.
pub fn check_output(plan: &Plan, output: &Path) -> Option<Problem> {
    let parent = parent_of(output).canonicalize().ok()?;
    let share = plan.shares.iter().find(|share| parent.starts_with(&share.source))?;
    Some(Problem::error(
        output,
        format!("lies in {}, which the guest shares and can write to", share.source),
        "choose an output outside of shared directories",
    ))
}

/// The directory that holds a package, which the working directory is by default.
fn parent_of(output: &Path) -> &Path {
    output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A directory that is removed on drop, unless it was renamed before.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns where the package that it replaced is, if that could not be removed.
pub(super) fn publish(package: &Package, output: &Path, force: bool) -> Result<Option<PathBuf>, WriteError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| WriteError::Io { path, error }
    };
    let Some(name) = output.file_name() else {
        return Err(WriteError::NoName(output.to_owned()));
    };
    let parent = parent_of(output);
    if let Ok(found) = output.symlink_metadata() {
        if !force {
            return Err(WriteError::Exists(output.to_owned()));
        }
        if !found.is_dir() || !is_ours(output) {
            return Err(WriteError::NotAPackage(output.to_owned()));
        }
    }
    let parent_fd = open_directory(parent).map_err(at(parent))?;
    let temporary = create_temporary(parent, name).map_err(at(parent))?;
    write_entries(package, &temporary.0)?;
    sync_file_system(&temporary.0).map_err(at(&temporary.0))?;
    let rename = |flags| rustix::fs::renameat_with(CWD, &temporary.0, CWD, output, flags);
    let renamed = match rename(RenameFlags::NOREPLACE) {
        // The old package gets the temporary name, and is removed with it.
        Err(Errno::EXIST) if force => rename(RenameFlags::EXCHANGE),
        Err(Errno::EXIST) => return Err(WriteError::Exists(output.to_owned())),
        result => result,
    };
    renamed.map_err(|e| at(output)(e.into()))?;
    sync_directory(&parent_fd).map_err(at(parent))?;
    let removed = if_present(std::fs::remove_dir_all(&temporary.0));
    Ok(removed.err().map(|_| temporary.0.clone()))
}

fn create_temporary(parent: &Path, name: &std::ffi::OsStr) -> io::Result<Temporary> {
    for attempt in 0..u32::MAX {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}-{attempt}.tmp", std::process::id()));
        let path = parent.join(temporary);
        match create_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| Temporary(path)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes the entries of a package into the empty directory `root`. Does not sync.
pub(super) fn write_entries(package: &Package, root: &Path) -> Result<(), WriteError> {
    let at = |path: &Path| {
        let path = root.join(path);
        move |error| WriteError::Io { path, error }
    };
    let directory = open_directory(root).map_err(at(Path::new("")))?;
    let mut made = BTreeSet::from([Path::new("")]);
    for (path, entry) in &package.0 {
        write_entry(&directory, &mut made, path, entry).map_err(at(path))?;
    }
    Ok(())
}

/// Whether there is a directory `root` that has all entries of a package, with their contents
/// and modes. In a Nix store, no file has a mode for writing.
pub(super) fn has_entries(package: &Package, root: &Path) -> io::Result<bool> {
    let opened = open_directory(root);
    if opened.as_ref().is_err_and(|error| !is_hosts(error)) {
        return Ok(false);
    }
    let directory = opened?;
    for (path, entry) in &package.0 {
        let is_whole = match entry {
            Entry::File(text) => has_file(&directory, path, text, 0o644)?,
            Entry::Executable(text) => has_file(&directory, path, text, 0o755)?,
            Entry::Link(target) => unless_damaged(rustix::fs::readlinkat(&directory, path, Vec::new()))?
                .is_some_and(|found| found.as_bytes() == target.as_os_str().as_bytes()),
        };
        if !is_whole {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_file(root: &OwnedFd, path: &Path, text: &str, mode: u32) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Some(file) = unless_damaged(rustix::fs::openat(root, path, flags, Mode::empty()))? else {
        return Ok(false);
    };
    let stat = rustix::fs::fstat(&file)?;
    let found = stat.st_mode & 0o7777;
    let has_mode = found == mode || found == mode & 0o555;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !has_mode {
        return Ok(false);
    }
    let mut found = Vec::with_capacity(text.len() + 1);
    File::from(file).take(text.len() as u64 + 1).read_to_end(&mut found)?;
    Ok(found == text.as_bytes())
}

/// What was found; nothing where there is something else.
fn unless_damaged<T>(found: Result<T, Errno>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write_entry<'a>(
    root: &OwnedFd,
    made: &mut BTreeSet<&'a Path>,
    path: &'a Path,
    entry: &Entry,
) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().skip(1).take_while(|parent| !made.contains(parent)).collect();
    for parent in missing.into_iter().rev() {
        create_directory_at(root, parent)?;
        made.insert(parent);
    }
    match entry {
        Entry::File(text) => create_file_at(root, path, text, 0o644),
        Entry::Executable(text) => create_file_at(root, path, text, 0o755),
        Entry::Link(target) => Ok(rustix::fs::symlinkat(target, root, path)?),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MANIFEST;
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn package(text: &str) -> Package {
        Package(BTreeMap::from([
            (MANIFEST.into(), Entry::File(text.to_owned())),
            ("bin/run".into(), Entry::Executable("#!".to_owned())),
            ("share/link".into(), Entry::Link("../x".into())),
        ]))
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_a_package_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        publish(&package("one"), &out, false).unwrap();
        assert!(matches!(publish(&package("two"), &out, false), Err(WriteError::Exists(_))));
        publish(&package("two"), &out, true).unwrap();
        assert_eq!(std::fs::read_to_string(out.join(MANIFEST)).unwrap(), "two");
        assert_eq!(std::fs::read_link(out.join("share/link")).unwrap(), Path::new("../x"));
        let mode = |p: &str| out.join(p).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode(""), mode("bin"), mode("bin/run"), mode(MANIFEST)], [0o755, 0o755, 0o755, 0o644]);
        assert_eq!(names(dir.path()), ["out"], "nothing temporary is left");

        let other = dir.path().join("precious");
        std::fs::create_dir(&other).unwrap();
        assert!(matches!(publish(&package("x"), &other, true), Err(WriteError::NotAPackage(_))));
        let link = dir.path().join("link");
        symlink(&out, &link).unwrap();
        assert!(matches!(publish(&package("x"), &link, true), Err(WriteError::NotAPackage(_))));
        assert!(matches!(publish(&package("x"), Path::new("/"), true), Err(WriteError::NoName(_))));
        let nowhere = dir.path().join("no/out");
        assert!(matches!(publish(&package("x"), &nowhere, false), Err(WriteError::Io { .. })));
    }
}
