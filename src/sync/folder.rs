// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM's folder in the state directory.

use std::io;
use std::path::Path;

use crate::base::name::VmName;
use crate::base::problem::Problem;
use crate::state::directory::StateDirectory;
use crate::state::look::names;
use crate::state::unwritable;
use crate::system::durable;

/// Creates a VM's folder, unless it exists; returns whether it has to be synced.
pub(super) fn ensure(state: &StateDirectory, name: &VmName) -> Result<bool, Problem> {
    let (folder, current) = (state.vm(name), state.current(name));
    let wanted = StateDirectory::current_link(name);
    if std::fs::read_link(&current).is_ok_and(|found| found == wanted) {
        return Ok(false);
    }
    if folder.symlink_metadata().is_ok() {
        durable::ensure_directory(&folder).map_err(unwritable(&folder))?;
        durable::replace_link(&current, &wanted).map_err(unwritable(&current))?;
        return Ok(false);
    }
    // Complete or not at all: nothing would tell that an empty folder is the program's.
    let temporary = durable::temporary_name(&folder).map_err(unwritable(&folder))?;
    remove_temporary(&temporary, name).map_err(unwritable(&temporary))?;
    let created = durable::create_directory(&temporary)
        .and_then(|()| std::os::unix::fs::symlink(wanted, temporary.join("current")))
        .and_then(|()| std::fs::rename(&temporary, &folder));
    if created.is_err() {
        let _ = remove_temporary(&temporary, name);
    }
    created.map_err(unwritable(&folder)).map(|()| true)
}

/// Removes a VM's folder. If it has more than our link, removes the link alone.
pub(super) fn remove(state: &StateDirectory, name: &VmName) {
    let (folder, current) = (state.vm(name), state.current(name));
    let Ok(found) = names(&folder) else { return };
    if found != ["current"] || folder.is_symlink() {
        let _ = std::fs::remove_file(current);
    } else if let Ok(temporary) = durable::temporary_name(&folder)
        && std::fs::rename(&folder, &temporary).is_ok()
    {
        // Renamed first: as above, it is complete or gone.
        let _ = remove_temporary(&temporary, name);
    }
}

/// Removes a VM's folder that has a temporary name, unless it has more than our link:
/// then it is not ours.
pub(super) fn remove_temporary(temporary: &Path, name: &VmName) -> io::Result<()> {
    let current = temporary.join("current");
    if std::fs::read_link(&current).is_ok_and(|found| found == StateDirectory::current_link(name)) {
        std::fs::remove_file(&current)?;
    }
    durable::if_present(std::fs::remove_dir(temporary)).map(drop)
}
