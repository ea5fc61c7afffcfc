// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether a VM's own user will be able to use its files.

use std::path::Path;

use rustix::process::{Gid, Uid};

use crate::base::problem::{Problem, Problems};
use crate::plan::Plan;

/// What the units' `PrivateTmp=` hides.
const HIDDEN: [&str; 2] = ["/tmp", "/var/tmp"];

/// Checks that the kernel and the images can be opened by the user `uid`, in
/// the units' surroundings.
///
/// Only root can try this; for others nothing is checked.
pub(super) fn check(plan: &Plan, uid: u32, problems: &mut Problems) {
    let partition = &plan.definition.boundary.user_partition;
    let files = std::iter::once(&plan.kernel).chain(&plan.images);
    let paths = std::iter::once(partition.as_path()).chain(files.clone().map(|file| Path::new(&file.path)));
    for path in paths.filter(|path| HIDDEN.iter().any(|hidden| path.starts_with(hidden))) {
        problems.error(
            path,
            "lies in a directory for temporary files, which the units of VMs do not see",
            "move it elsewhere",
        );
    }
    if !rustix::process::geteuid().is_root() || problems.has_errors() {
        return;
    }
    // A thread of its own becomes that user, and never comes back.
    let tried = std::thread::scope(|scope| {
        let attempt = std::thread::Builder::new().spawn_scoped(scope, || {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(group, group, group)?;
            rustix::thread::set_thread_res_uid(user, user, user)?;
            let walker = plan.walker();
            let unreadable = files.filter_map(|file| plan.open_file_by(&walker, file).err());
            Ok::<Vec<_>, rustix::io::Errno>(unreadable.collect())
        });
        attempt.map(|thread| thread.join())
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
        Ok(Ok(Err(error))) => {
            problems.error(
                partition,
                format!("cannot be looked at as user {uid}: {error}"),
                "run sync as root, outside of containers that map user ids",
            );
        }
        _ => problems.error(partition, "cannot be looked at: there can be no further thread", "try again"),
    }
}
