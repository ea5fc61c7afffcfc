// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM's tap interfaces, for its user alone.
//!
//! This program's own packages have [links](super::links); others bring their own
//! `bin/tap-up` and `bin/tap-down`, or name their taps in `share/microvm/tap-interfaces`.

use std::collections::BTreeMap;
use std::process::Command;

use super::links::{links_down, links_up};
use super::{Environment, HostError, become_trusted, trusted_package};
use crate::base::name::VmName;
use crate::base::tool::Tool;
use crate::link::taps::is_tap;
use crate::package::older::Files;
use crate::package::{Script, Whose, whose};
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;
use crate::system::program;

/// Makes a VM's taps; those of the older convention are made again where they exist.
///
/// # Errors
/// See [`HostError`].
pub fn tap_up(state: &StateDirectory, name: &VmName, environment: &Environment) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    let environment = &environment.for_vm(name)?;
    match whose(&package, Script::TapUp)? {
        Whose::Ours(plan) => {
            let catalog = Catalog::read(&state.catalog()).ok();
            let user = environment.vm_user()?;
            let provider_user = |provider: &VmName| {
                let found = catalog.iter().flat_map(Catalog::runnable).find(|(vm, _)| vm.name == *provider);
                found.map_or(user, |(_, runnable)| runnable.uid)
            };
            links_up(&plan, user, &provider_user, environment)
        }
        Whose::Script(script) => Err(become_trusted(&script, environment)),
        Whose::Files(files) => files_up(&files, environment),
    }
}

/// Removes a VM's taps, those that exist.
///
/// # Errors
/// See [`HostError`].
pub fn tap_down(state: &StateDirectory, name: &VmName, environment: &Environment) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    let environment = &environment.for_vm(name)?;
    match whose(&package, Script::TapDown)? {
        Whose::Ours(plan) => links_down(&plan, environment),
        Whose::Script(script) => Err(become_trusted(&script, environment)),
        Whose::Files(files) => files_down(&files, environment),
    }
}

fn files_up(files: &Files, environment: &Environment) -> Result<(), HostError> {
    let (taps, flags) = (files.taps()?, files.tap_flags()?);
    let ip = environment.tool(&BTreeMap::new(), Tool::Ip)?;
    let user = environment.vm_user()?.to_string();
    for tap in &taps {
        if is_tap(&ip, tap)? {
            program::run(Command::new(&ip).args(["link", "delete", "dev", tap]))?;
        }
        let add = ["tuntap", "add", "dev", tap, "mode", "tap", "user", &user];
        program::run(Command::new(&ip).args(add).args(&flags))?;
        program::run(Command::new(&ip).args(["link", "set", "dev", tap, "up"]))?;
    }
    Ok(())
}

fn files_down(files: &Files, environment: &Environment) -> Result<(), HostError> {
    let ip = environment.tool(&BTreeMap::new(), Tool::Ip)?;
    for tap in files.taps()? {
        if is_tap(&ip, &tap)? {
            program::run(Command::new(&ip).args(["link", "delete", "dev", &tap]))?;
        }
    }
    Ok(())
}
