// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `booted`: the link to the package that a VM was started from.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{HostError, io_error, runtime, units};
use crate::base::name::VmName;
use crate::link::records;
use crate::package::{self, Script, Whose, whose};
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;
use crate::state::started::{self, Started};
use crate::state::unused;
use crate::system::{durable, systemd, trust};

/// How often to look again for a drop-in: systemd may read its units again and again.
const LOOKS: usize = 5;
/// How long to wait where systemd does not answer.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Makes `booted` a link to the package that `current` leads to, free of other links, and
/// prepares the VM's runtime directory.
///
/// # Errors
/// See [`HostError`]. One is that the drop-ins of the VM, as systemd has read them, do not say
/// what the catalog says.
pub fn set_booted(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    // A process that removes packages holds this lock, and keeps those of `booted`.
    // There is none where no sync has ever run.
    let lock = durable::if_present(File::options().write(true).open(state.lock()));
    let locked = lock.and_then(|lock| {
        lock.iter().try_for_each(|lock| rustix::fs::flock(lock, FlockOperation::LockShared))?;
        Ok(lock)
    });
    let _lock = locked.map_err(io_error("the state directory cannot be locked"))?;
    let package = trust::resolve_tree(&state.current(name))?;
    let catalog = trust::resolve(&state.catalog()).ok().and_then(|path| Catalog::read(&path).ok());
    if !may_start(state, catalog.as_ref(), name) {
        return Err(HostError::Outdated);
    }
    runtime::mount_runtime(name)?;
    // Clients may start while the VM runs.
    records::prepare(name).map_err(io_error(format!("{} cannot be created", records::DIRECTORY)))?;
    unused::remove(state, name)
        .map_err(io_error(format!("{} cannot be written", state.unused().display())))?;
    let booted = state.booted(name);
    durable::replace_link(&booted, &package)
        .map_err(io_error(format!("{} cannot be written", booted.display())))?;
    record(catalog.as_ref(), name, &package)
        .map_err(io_error(format!("{} cannot be written", started::DIRECTORY)))
}

/// Whether a VM can run, and the drop-in that systemd has read says what the catalog says. Without
/// one, a VM of a source would run as a user that is not its own; another program's needs none.
fn may_start(state: &StateDirectory, catalog: Option<&Catalog>, name: &VmName) -> bool {
    let agrees = || match units::drop_in_of_systemd(name) {
        Ok(Some(drop_in)) => catalog.is_some_and(|catalog| units::is_current(catalog, name, &drop_in)),
        Ok(None) => state.is_anothers(name).unwrap_or(true),
        Err(_) => false,
    };
    // While systemd reads its units anew, the drop-ins are away. It answers when they are back, and
    // not at all while it executes itself anew.
    let wait = || match systemd::property(&systemd::unit(name), "Id") {
        Some(_) => {}
        None => std::thread::sleep(LOOK_INTERVAL),
    };
    agrees()
        || (0..LOOKS).any(|_| {
            wait();
            agrees()
        })
}

/// Records what else the VM is started with: its other units take its user from there. The
/// supervisor reports what cannot be found.
fn record(catalog: Option<&Catalog>, name: &VmName, package: &Path) -> io::Result<()> {
    let mut files = match whose(package, Script::Run) {
        Ok(Whose::Ours(plan)) => plan.stamps().unwrap_or_default(),
        _ => Vec::new(),
    };
    files.extend(package::stamp(package));
    match catalog.and_then(|catalog| Started::now(catalog, name, package.to_owned(), files)) {
        Some(record) => record.write(),
        None => started::remove(name),
    }
}

/// Removes that link, and the VM's runtime directory.
///
/// # Errors
/// See [`HostError`].
pub fn clear_booted(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    let unmounted = runtime::unmount_runtime(name);
    started::remove(name).map_err(io_error(format!("{} cannot be written", started::DIRECTORY)))?;
    let booted = state.booted(name);
    let removed = durable::if_present(std::fs::remove_file(&booted)).map(drop);
    removed.map_err(io_error(format!("{} cannot be removed", booted.display()))).and(unmounted)
}
