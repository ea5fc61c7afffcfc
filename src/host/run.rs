// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Starting and stopping a VM's own program, as the VM's user.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Signal};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::{HostError, io_error, started};
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::package::{LoadError, Script, Whose, whose};
use crate::plan::runtime::SocketNames;
use crate::state::directory::{SHARES_DIRECTORY, StateDirectory, UPLINK_DIRECTORY, wayland_socket};
use crate::system::durable::if_present;
use crate::system::process::{in_background, keep_memory_private};
use crate::system::program;

/// Runs the `microvm-run` of the package that a VM was started from, in the working
/// directory: becomes it, or returns the status of one that is another program's.
///
/// Root serves the shared directories elsewhere, passt and the compositor of a session listen
/// elsewhere; their sockets get links here, where packages look for them.
///
/// # Errors
/// See [`HostError`].
pub fn run(state: &StateDirectory, name: &VmName) -> Result<u8, HostError> {
    // Since the package was recorded, its providers may have taken long to start.
    let is = rustix::process::geteuid().as_raw();
    if let Some(own) = started(name)?.map(|started| started.uid).filter(|own| *own != is) {
        return Err(HostError::OtherUser { is, own });
    }
    let package = state.booted(name);
    package.metadata().map_err(|error| LoadError::Io { path: package.clone(), error })?;
    let device = |path: &str| std::fs::metadata(path).map(|found| found.dev());
    let limited = device(".").and_then(|own| Ok(own != device("..")?));
    if !limited.map_err(io_error("the runtime directory cannot be looked at"))? {
        return Err(HostError::Unlimited);
    }
    link_sockets(&Path::new(SHARES_DIRECTORY).join(name.as_str()))
        .map_err(io_error("the sockets of shared directories cannot be linked to"))?;
    let mut command = Command::new(Script::Run.within(&package));
    match whose(&package, Script::Run)? {
        Whose::Ours(plan) => {
            command.arg("--external-virtiofsd");
            if let Some(uplink) = &plan.uplink {
                let target = Path::new(UPLINK_DIRECTORY).join(name.as_str()).join(&uplink.socket);
                link(&target, Path::new(&uplink.socket))
                    .map_err(io_error("the socket of passt cannot be linked to"))?;
                command.arg("--external-uplink");
            }
            if plan.wayland.is_some() {
                // It leads nowhere while there is no compositor.
                link(&wayland_socket(name), Path::new(&SocketNames::new(name).wayland()))
                    .map_err(io_error("the compositor's socket cannot be linked to"))?;
                command.arg("--without-compositor");
            }
        }
        // They do not say when they are ready.
        Whose::Script(_) | Whose::Files(_) => {
            drop(sd_notify::notify(&[NotifyState::Ready]));
            let program = printable(command.get_program());
            return status_of(command).map_err(io_error(format!("{program} cannot be executed")));
        }
    }
    Err(program::become_program(&mut command).into())
}

/// Runs a monitor as a child, passes signals on to it, and returns its status or ends by the
/// same signal. systemd believes its main process, and one that was taken over would
/// extend the time that it has to stop; so this process is that one.
fn status_of(mut command: Command) -> io::Result<u8> {
    keep_memory_private()?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
    let mut child = command.spawn()?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    in_background(move || {
        for signal in signals.forever().filter_map(Signal::from_named_raw) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, signal);
        }
    })?;
    let status = child.wait()?;
    if let Some(signal) = status.signal() {
        emulate_default_handler(signal)?;
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

fn link_sockets(directory: &Path) -> io::Result<()> {
    for entry in if_present(std::fs::read_dir(directory))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            link(&entry.path(), Path::new(&entry.file_name()))?;
        }
    }
    Ok(())
}

/// Makes a link in the working directory, in place of one that is there.
fn link(target: &Path, link: &Path) -> io::Result<()> {
    if_present(std::fs::remove_file(link))?;
    symlink(target, link)
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
