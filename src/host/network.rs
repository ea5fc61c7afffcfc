// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The network namespace of the VMs that have drop-ins: no network manager, firewall or
//! other service of the host reaches their taps, and no monitor reaches the host's network.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::{Environment, HostError, io_error};
use crate::base::tool::Tool;
use crate::state::started::Started;
use crate::system::{durable, program};

/// The namespace, by the name that `ip netns` gives it.
const NAME: &str = "microvm-spectrum";
/// Where it is mounted.
pub(super) const PATH: &str = "/run/netns/microvm-spectrum";
/// The type of a file system whose files are namespaces (`linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Makes the namespace, unless it is there.
///
/// # Errors
/// See [`HostError`].
pub fn network_up(environment: &Environment) -> Result<(), HostError> {
    if is_there() {
        return Ok(());
    }
    // What is left where `ip` was killed before it mounted the namespace there.
    durable::if_present(std::fs::remove_file(PATH)).map_err(io_error(format!("{PATH} is no namespace")))?;
    let ip = environment.tool(&BTreeMap::new(), Tool::Ip)?;
    Ok(program::run(Command::new(ip).args(["netns", "add", NAME]))?)
}

fn is_there() -> bool {
    #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
    rustix::fs::statfs(Path::new(PATH)).is_ok_and(|found| i64::try_from(found.f_type) == Ok(NSFS_MAGIC))
}

/// Whether VMs that start now have that namespace. An earlier version of this program had
/// none: until the VMs that it started have stopped, all VMs stay in the host's, so that
/// both ends of each link are in one.
pub(super) fn is_used() -> bool {
    is_there() || Started::all().is_empty()
}
