// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Making a VM directory: a kernel, a root image, and what the VM is given.
//!
//! Nothing needs root or a loop device. The directory is made beside its place, checked,
//! and appears there in one rename.

mod archive;
mod guest;
mod image;
mod root;
mod template;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

pub use self::root::Root;
pub use self::template::Template;
use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::directory::boundary::AllowedPrefix;
use crate::directory::definition::{Location, Scan};
use crate::system::{durable, trust};

/// What a new VM is to be.
#[derive(Debug)]
pub struct Order<'a> {
    /// Its name.
    pub name: &'a VmName,
    /// The directory that VM directories lie in; it is made when it is missing.
    pub place: &'a Path,
    /// The user partition that it lies on, if on one.
    pub partition: Option<&'a Path>,
    /// Where else links may lead.
    pub allowed: &'a [AllowedPrefix],
    /// The file of the kernel.
    pub kernel: &'a Path,
    /// What becomes its root file system.
    pub root: &'a Root,
    /// The VMs that provide its networks.
    pub providers: &'a BTreeSet<VmName>,
    /// The shared directories, each with its tag.
    pub shares: &'a [(String, PathBuf)],
    /// That of its kernel.
    pub architecture: Architecture,
    /// Where tools are, in the form of the environment variable PATH.
    pub path: &'a OsStr,
}

/// Makes a VM directory; returns its path and what `check` notes about it.
///
/// # Errors
/// Everything that is wrong with the input, as `check` finds it too, or an error of the
/// host, such as a missing tool. There is nothing new at the place then.
pub fn make(order: &Order) -> Result<(PathBuf, Problems), Problems> {
    let target = order.place.join(order.name.as_str());
    if target.symlink_metadata().is_ok() {
        return Err(
            Problem::error(target, "exists already", "choose another name, or remove it first").into()
        );
    }
    let failed = |error: io::Error| Problems::from(failed(&target, error));
    durable::ensure_directory(order.place).map_err(failed)?;
    let place = order.place.canonicalize().map_err(failed)?;
    // Who can swap a directory for a link would choose where root writes.
    if rustix::process::geteuid().is_root() {
        trust::resolve(&place).map_err(|untrusted| {
            let (cause, _) = untrusted.cause_and_remedy();
            let remedy = "run 'microvm-spectrum new' as the user that it belongs to, without root";
            Problem::error(&place, cause, remedy)
        })?;
    }
    remove_leftovers(&place, order.name);
    let temporary = durable::temporary_name(&place.join(order.name.as_str())).map_err(failed)?;
    durable::create_directory(&temporary).map_err(failed)?;
    let made = make_in(order, &temporary.join(order.name.as_str()), &target);
    let removed = fs::remove_dir_all(&temporary);
    let problems = made?;
    removed.and_then(|()| durable::sync_directory(durable::open_directory(&place)?)).map_err(failed)?;
    Ok((target, problems))
}

/// Makes it as `directory`, and moves it to `target`.
fn make_in(order: &Order, directory: &Path, target: &Path) -> Result<Problems, Problems> {
    let failed = |error: io::Error| Problems::from(failed(target, error));
    let partition = order.partition.map(Path::canonicalize).transpose().map_err(failed)?;
    durable::create_directory(directory).map_err(failed)?;
    copy(order.kernel, &directory.join("vmlinux"))?;
    let images = directory.join("blk");
    durable::create_directory(&images).map_err(failed)?;
    let tags: Vec<_> = order.shares.iter().map(|(tag, _)| tag.as_str()).collect();
    order.root.write(&images.join("root.img"), &tags, order.path)?;
    write_links(order, directory, partition.as_deref()).map_err(failed)?;

    let location = Location::find(directory, partition.as_deref(), order.allowed)?;
    let reading = Scan::new(order.architecture).looking_inside().read(&location);
    let mut problems = Problems::default();
    problems.extend(reading.problems.into_sorted().into_iter().map(|problem| {
        let shown = problem.path.strip_prefix(directory).map(|rest| target.join(rest));
        Problem { path: shown.unwrap_or(problem.path.clone()), ..problem }
    }));
    let problems = problems.clone().or(problems)?;
    durable::sync_file_system(directory).map_err(failed)?;
    rustix::fs::renameat_with(CWD, directory, CWD, target, RenameFlags::NOREPLACE)
        .map_err(|error| failed(error.into()))?;
    Ok(problems)
}

/// Its providers and its shared directories.
fn write_links(order: &Order, directory: &Path, partition: Option<&Path>) -> io::Result<()> {
    if !order.providers.is_empty() {
        let providers = directory.join("providers/net");
        durable::ensure_directory(&providers)?;
        for provider in order.providers {
            durable::create_file(&providers.join(provider.as_str()), "", 0o644)?;
        }
    }
    for (tag, shared) in order.shares {
        let entry = directory.join("shared-dirs").join(tag);
        durable::ensure_directory(&entry)?;
        // As Spectrum sees it, where it can: the partition may be mounted elsewhere.
        let beneath = partition.and_then(|partition| shared.strip_prefix(partition).ok());
        let link = beneath.map_or(shared.clone(), |beneath| Path::new("/ext").join(beneath));
        symlink(link, entry.join("dir"))?;
    }
    Ok(())
}

/// Copies a file that every user can read.
fn copy(from: &Path, to: &Path) -> Result<(), Problem> {
    let unreadable = |error| {
        Problem::error(
            from,
            format!("cannot be copied: {error}"),
            "name a file that can be read, and check the disk",
        )
    };
    let metadata = from.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Problem::error(from, "is not a regular file", "name the file itself"));
    }
    fs::copy(from, to).map_err(unreadable)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644)).map_err(unreadable)
}

/// Removes what processes that were killed have left of a VM directory of this name.
fn remove_leftovers(place: &Path, name: &VmName) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(temporary) = file_name.to_str() else { continue };
        let process = temporary.trim_end_matches(".tmp").rsplit_once('.').map(|(_, process)| process);
        let runs = process.is_some_and(|process| Path::new("/proc").join(process).exists());
        if durable::replaced_by(temporary) == Some(name.as_str()) && !runs {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn failed(target: &Path, error: io::Error) -> Problem {
    Problem::host(
        target,
        format!("cannot be made: {error}"),
        "check the permissions and the space of its file system",
    )
}
