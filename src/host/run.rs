// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting and stopping a VM's own program, as the VM's user.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::Path;
use std::process::Command;

use sd_notify::NotifyState;

use super::{HostError, io_error};
use crate::base::name::VmName;
use crate::package::{Script, Whose, whose};
use crate::state::directory::{SHARES_DIRECTORY, StateDirectory};
use crate::system::durable::if_present;
use crate::system::program;

/// Becomes the `microvm-run` of the package that a VM was started from, in the
/// working directory; returns only when that fails.
///
/// Root serves the shared directories elsewhere; their sockets get links here,
/// where packages look for them.
///
/// # Errors
/// See [`HostError`].
pub fn run(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    link_sockets(&Path::new(SHARES_DIRECTORY).join(name.as_str()))
        .map_err(io_error("the sockets of shared directories cannot be linked to"))?;
    let package = state.booted(name);
    let mut command = Command::new(Script::Run.within(&package));
    match whose(&package, Script::Run)? {
        Whose::Ours(_) => drop(command.arg("--external-virtiofsd")),
        // They do not say when they are ready.
        Whose::Script(_) | Whose::Files(_) => drop(sd_notify::notify(&[NotifyState::Ready])),
    }
    Err(program::become_program(&mut command).into())
}

fn link_sockets(directory: &Path) -> io::Result<()> {
    for entry in if_present(std::fs::read_dir(directory))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            let link = entry.file_name();
            if_present(std::fs::remove_file(&link))?;
            symlink(entry.path(), link)?;
        }
    }
    Ok(())
}

/// Becomes the `microvm-shutdown` of a package whose `microvm-run` is not this
/// program's supervisor, which only needs a signal.
///
/// # Errors
/// See [`HostError`].
pub fn stop(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    match whose(&state.booted(name), Script::Shutdown) {
        Ok(Whose::Script(script)) => Err(program::become_program(&mut Command::new(script)).into()),
        // A manifest that cannot be read is this program's, too.
        Ok(Whose::Ours(_) | Whose::Files(_)) | Err(_) => Ok(()),
    }
}
