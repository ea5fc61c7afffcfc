// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Serving a VM's shared directories, as root, for the VM's user.
//!
//! The sockets are in a directory of root's own, each for that user alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Environment, HostError, become_trusted, io_error, trusted_package};
use crate::base::name::VmName;
use crate::base::problem::Problems;
use crate::base::tool::Tool;
use crate::package::older::ShareFiles;
use crate::package::{Script, Whose, whose};
use crate::state::directory::StateDirectory;
use crate::supervisor::virtiofsd::{self, OpenShare, Privileges};
use crate::supervisor::{self, Again, Opening, Outcome, Serving};

/// Serves the shared directories of a VM in the working directory until a signal
/// ends it; they are mounted there, in this process' own mount namespace.
///
/// # Errors
/// See [`HostError`]; else how serving ended.
pub fn serve_shares(
    state: &StateDirectory,
    name: &VmName,
    environment: &Environment,
) -> Result<Outcome, HostError> {
    let package = trusted_package(state, name)?;
    let environment = &environment.for_vm(name)?;
    let serve = |tools: &BTreeMap<Tool, PathBuf>, open: &Opening<'_>| {
        let program = environment.tool(tools, Tool::Virtiofsd)?;
        let client = Some(environment.vm_user()?);
        let privileges = Privileges { client, mounts: Some(PathBuf::from(".")) };
        virtiofsd::mount_whole_proc(Path::new("proc.mount"))
            .map_err(io_error("/proc cannot be mounted again"))?;
        let served = supervisor::serve(&Serving { name, program, privileges }, open, &Again::Always);
        Ok(served.unwrap_or_else(|outcome| outcome))
    };
    match whose(&package, Script::Virtiofsd)? {
        Whose::Ours(plan) => {
            serve(&plan.tools, &|wanted| virtiofsd::open_unserved(&plan, wanted, Duration::ZERO))
        }
        Whose::Script(script) => Err(become_trusted(&script, environment)),
        Whose::Files(files) => {
            let shares = files.shares()?;
            serve(&BTreeMap::new(), &|wanted| open_files(&shares, wanted))
        }
    }
}

fn open_files(shares: &[ShareFiles], wanted: &dyn Fn(&str) -> bool) -> Result<Vec<OpenShare>, Problems> {
    let (mut open, mut problems) = (Vec::new(), Problems::default());
    for ShareFiles { tag, source, socket } in shares.iter().filter(|share| wanted(&share.tag)) {
        match OpenShare::of_administrator(tag, socket, source) {
            Ok(share) => open.push(share),
            Err(error) => {
                problems.error(source, format!("cannot be shared as '{tag}': {error}"), "make it a directory")
            }
        }
    }
    problems.or(open)
}
