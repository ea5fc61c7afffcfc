// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether a VM's own user can read its files.

use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::io::Errno;

use crate::base::problem::{Problem, Problems};
use crate::plan::Plan;

/// The directories that the VMs' units have of their own.
const HIDDEN: [&str; 2] = ["/tmp", "/var/tmp"];

/// Checks that the user `uid` can open the kernel and the images in the VM's unit.
///
/// Only root can try that; other users check nothing but the places.
pub(super) fn check(plan: &Plan, uid: u32, problems: &mut Problems) {
    let partition = &plan.definition.boundary.user_partition;
    let files = std::iter::once(&plan.kernel).chain(&plan.images).map(|file| Path::new(&file.path));
    for path in std::iter::once(partition.as_path()).chain(files) {
        if HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
            problems.error(
                path,
                "lies in a directory for temporary files, which the units of VMs do not see",
                "move it elsewhere",
            );
        }
    }
    if !rustix::process::geteuid().is_root() || problems.has_errors() {
        return;
    }
    // In a thread of its own, which takes the rights of that user and ends.
    let tried = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || unreadable_by(plan, uid));
        thread.map(|thread| thread.join())
    });
    match tried {
        Ok(Ok(Ok(unreadable))) => {
            for Problem { path, cause, .. } in unreadable {
                problems.error(
                    path,
                    format!("{cause} (as user {uid}, whom the VM runs as)"),
                    "let others read it and search the directories that lead to it: chmod o+r, chmod o+x",
                );
            }
        }
        Ok(Ok(Err(error))) => problems.error(
            partition,
            format!("cannot be looked at as user {uid}: {error}"),
            "run sync as root, outside of containers that map user ids",
        ),
        _ => problems.push(Problem::host(
            partition,
            "cannot be looked at: the host does not start another thread",
            "try again",
        )),
    }
}

/// Takes the rights of the user `uid`, in this thread and for good, and tries to open the
/// files of the plan. Returns the problems of those that it cannot open.
fn unreadable_by(plan: &Plan, uid: u32) -> Result<Vec<Problem>, Errno> {
    take_rights_of(uid)?;
    let walker = plan.walker();
    let files = std::iter::once(&plan.kernel).chain(&plan.images);
    Ok(files.filter_map(|file| plan.open_file_by(&walker, file).err()).collect())
}

/// Has the kernel decide by the ids of a user what this thread may open.
///
/// All its other ids stay root's (`setfsuid(2)`): that user, who may be a VM that was
/// taken over, can neither signal this process, which holds the lock, nor limit it.
fn take_rights_of(uid: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_groups(&[])?;
    let switch = || (setfsgid(group), setfsuid(user));
    switch();
    // Neither reports an error; each returns the id before it.
    if switch() == (group, user) { Ok(()) } else { Err(Errno::INVAL) }
}
