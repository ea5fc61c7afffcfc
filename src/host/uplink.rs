// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Connecting a VM to the host's network, as a user of its own.

use std::process::Command;

use super::HostError;
use crate::base::name::VmName;
use crate::package::{Script, Whose, whose};
use crate::plan::Plan;
use crate::state::directory::StateDirectory;
use crate::supervisor::uplink;
use crate::system::program;

/// Becomes the passt of a VM, which goes into the background when it listens in the working
/// directory; does nothing for a VM without an uplink.
///
/// # Errors
/// See [`HostError`].
pub fn connect_uplink(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    match whose(&state.booted(name), Script::Uplink)? {
        Whose::Ours(plan) => match &plan.uplink {
            Some(uplink) => Err(program::become_program(&mut uplink::command(&plan, uplink)).into()),
            None => Ok(()),
        },
        Whose::Script(script) => Err(program::become_program(&mut Command::new(script)).into()),
        Whose::Files(_) => Ok(()),
    }
}

/// Becomes the passt of a plan, in the foreground and in the working directory; does nothing for a
/// plan without an uplink.
///
/// # Errors
/// See [`HostError`].
pub fn become_uplink(plan: &Plan) -> Result<(), HostError> {
    let Some(uplink) = &plan.uplink else { return Ok(()) };
    Err(program::become_program(&mut uplink::foreground(uplink::command(plan, uplink))).into())
}
