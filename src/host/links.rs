// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A client's links to its network providers: taps, rules, and the records that the
//! providers' supervisors read.

use std::time::{Duration, Instant};

use super::{Environment, HostError, io_error};
use crate::base::name::VmName;
use crate::base::tool::Tool;
use crate::link::id::LinkId;
use crate::link::records;
use crate::link::taps::{self, Tools};
use crate::plan::{InterfacePlan, Plan};

/// How long a provider gets to unplug an interface before root removes its tap.
const DETACH_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often to check whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Creates all links of a client, with taps for `client_user` and for the user of each
/// provider, and records them. Keeps what exists already.
///
/// # Errors
/// See [`HostError`]. It then removes the links again.
pub fn links_up(
    plan: &Plan,
    client_user: u32,
    provider_user: &dyn Fn(&VmName) -> u32,
    environment: &Environment,
) -> Result<(), HostError> {
    let tools = tools(plan, environment);
    for InterfacePlan { link, .. } in &plan.interfaces {
        // The other VM runs with an id that a sync has since given to this one.
        if let Some(client) = other_holder(plan, *link)? {
            return Err(HostError::LinkInUse { link: *link, client });
        }
    }
    let made = plan.interfaces.iter().try_for_each(|InterfacePlan { provider, link, .. }| {
        let provider_user = provider_user(provider);
        let new = taps::up(&tools, *link, client_user, provider_user)?;
        records::record(provider, *link, &plan.name, provider_user, new)
            .map_err(io_error(format!("the link to {provider} cannot be recorded")))
    });
    if made.is_err() {
        let _ = links_down(plan, environment);
    }
    made
}

/// Removes the records of a client's links, gives the providers a moment to unplug
/// their interfaces, and removes the links that exist.
///
/// # Errors
/// The first error; it tries everything nevertheless. See [`HostError`].
pub fn links_down(plan: &Plan, environment: &Environment) -> Result<(), HostError> {
    let tools = tools(plan, environment);
    let mut result = Ok(());
    let is_ours = |it: &&InterfacePlan| !matches!(other_holder(plan, it.link), Ok(Some(_)));
    let links: Vec<_> = plan.interfaces.iter().filter(is_ours).map(|it| (&it.provider, it.link)).collect();
    for (provider, link) in &links {
        let removed = records::remove(provider, *link)
            .map_err(io_error(format!("the record of the link to {provider} cannot be removed")));
        result = result.and(removed);
    }
    let deadline = Instant::now() + DETACH_TIMEOUT;
    while Instant::now() < deadline && links.iter().any(|(_, link)| taps::provider_is_attached(&tools, *link))
    {
        std::thread::sleep(LOOK_INTERVAL);
    }
    for (_, link) in &links {
        result = result.and(taps::down(&tools, *link).map_err(HostError::from));
    }
    result
}

/// Another VM that runs with this id.
fn other_holder(plan: &Plan, link: LinkId) -> Result<Option<VmName>, HostError> {
    let holder = records::holder(link);
    let holder = holder.map_err(io_error(format!("{} cannot be read", records::DIRECTORY)))?;
    Ok(holder.filter(|client| *client != plan.name))
}

/// The programs of a plan, or else those in PATH. A missing one only fails when it is
/// executed, so that its absence does not keep records from being removed.
fn tools(plan: &Plan, environment: &Environment) -> Tools {
    let program = |tool: Tool| environment.tool(&plan.tools, tool).unwrap_or_else(|_| tool.as_str().into());
    Tools { ip: program(Tool::Ip), nft: program(Tool::Nft) }
}
