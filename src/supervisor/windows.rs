// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The Wayland compositor that shows a guest's windows.
//!
//! The VMM connects to its socket whenever the guest opens a connection. Here it gets its
//! place in the VM's directory, and the user learns whether it is there.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::output::say;
use super::{Options, Outcome};
use crate::base::problem::Problem;
use crate::plan::Plan;
use crate::plan::runtime::{SocketNames, check_bound};
use crate::system::process::in_background;

/// How often to look whether a compositor is there.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The link to the compositor's socket in the working directory; dropping it removes the link.
pub(super) struct CompositorLink(String);

impl CompositorLink {
    /// Links to the socket of the session's compositor. Where the VM needs none, a link
    /// that is there stays, and none is made to no socket.
    pub fn make(plan: &Plan, options: &Options) -> Result<Option<Self>, Outcome> {
        if plan.wayland.is_none() {
            return Ok(None);
        }
        let name = SocketNames::new(&plan.name).wayland();
        let target = match &options.compositor {
            _ if options.without_compositor && Path::new(&name).is_symlink() => return Ok(None),
            Some(target) => target,
            None if options.without_compositor => return Ok(None),
            None => {
                let shown = plan.definition.boundary.user_partition.join(plan.relative("wayland"));
                let cause =
                    "needs a Wayland compositor, and neither WAYLAND_DISPLAY nor XDG_RUNTIME_DIR names one";
                return Err(refused(Problem::error(shown, cause, REMEDY)));
            }
        };
        let failed = |error: io::Error| {
            Outcome::HostFailed(format!("{name} cannot be made a link to the compositor's socket: {error}"))
        };
        // What a supervisor that was killed has left.
        if Path::new(&name).is_symlink() {
            std::fs::remove_file(&name).map_err(failed)?;
        }
        symlink(target, &name).map_err(failed)?;
        let link = Self(name);
        // By the link, because a socket's path is short.
        match check_bound(&link.0) {
            Err(error) if !options.without_compositor => {
                let cause = format!("no Wayland compositor can be reached there: {error}");
                Err(refused(Problem::error(target, cause, REMEDY)))
            }
            _ => Ok(Some(link)),
        }
    }
}

impl Drop for CompositorLink {
    fn drop(&mut self) {
        if Path::new(&self.0).is_symlink() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

const REMEDY: &str = "start the VM in a Wayland session, or with --without-compositor, whose guest shows windows when there is one";

fn refused(problem: Problem) -> Outcome {
    Outcome::HostIncomplete(problem.into())
}

/// Says when the compositor of a VM with windows is missing, and when it is there again,
/// for as long as this process runs.
pub(super) fn follow(plan: &Plan) -> io::Result<()> {
    if plan.wayland.is_none() {
        return Ok(());
    }
    let (name, socket) = (plan.name.clone(), SocketNames::new(&plan.name).wayland());
    in_background(move || {
        let mut was_there = true;
        loop {
            let found = check_bound(&socket);
            match &found {
                Err(error) if was_there => {
                    say(
                        &name,
                        &format!("there is no Wayland compositor, the guest shows no windows: {error}"),
                    );
                }
                Ok(()) if !was_there => {
                    say(&name, "a Wayland compositor is there, the guest can show windows")
                }
                _ => {}
            }
            was_there = found.is_ok();
            std::thread::sleep(LOOK_INTERVAL);
        }
    })
}
