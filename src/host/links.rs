// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A client's links to its network providers: taps, rules, and the records that
//! tell the providers.

use std::time::{Duration, Instant};

use super::{Environment, HostError, io_error};
use crate::base::name::VmName;
use crate::base::tool::Tool;
use crate::link::id::LinkId;
use crate::link::records;
use crate::link::taps::{self, Tools};
use crate::plan::{InterfacePlan, Plan};

/// How long a provider gets to unplug an interface before its tap is removed
/// all the same.
const DETACH_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often to look whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Makes all links of a client, with taps for `client_user` and for the user
/// of each provider, and tells the providers. What is there already is kept.
///
/// # Errors
/// See [`HostError`]; what was made is then removed.
pub fn links_up(
    plan: &Plan,
    client_user: u32,
    provider_user: &dyn Fn(&VmName) -> u32,
    environment: &Environment,
) -> Result<(), HostError> {
    let tools = tools(plan, environment);
    for InterfacePlan { link, .. } in &plan.interfaces {
        // Its id was given to this VM while the other runs with it.
        if let Some(client) = other_holder(plan, *link)? {
            return Err(HostError::LinkInUse { link: *link, client });
        }
    }
    let made = plan.interfaces.iter().try_for_each(|InterfacePlan { provider, link, .. }| {
        let new = taps::up(&tools, *link, client_user, provider_user(provider))?;
        records::record(provider, *link, &plan.name, new)
            .map_err(io_error(format!("{provider} cannot be told")))
    });
    if made.is_err() {
        let _ = links_down(plan, environment);
    }
    made
}

/// Tells the providers of a client that it has gone, gives them a moment, and
/// removes all links, as far as they are there.
///
/// # Errors
/// See [`HostError`]; everything was tried.
pub fn links_down(plan: &Plan, environment: &Environment) -> Result<(), HostError> {
    let tools = tools(plan, environment);
    let mut result = Ok(());
    let is_ours = |it: &&InterfacePlan| !matches!(other_holder(plan, it.link), Ok(Some(_)));
    let links: Vec<_> = plan.interfaces.iter().filter(is_ours).map(|it| (&it.provider, it.link)).collect();
    for (provider, link) in &links {
        let removed =
            records::remove(provider, *link).map_err(io_error(format!("{provider} cannot be told")));
        result = result.and(removed);
    }
    let deadline = Instant::now() + DETACH_TIMEOUT;
    while Instant::now() < deadline && links.iter().any(|(_, link)| taps::provider_is_attached(*link)) {
        std::thread::sleep(LOOK_INTERVAL);
    }
    for (_, link) in &links {
        result = result.and(taps::down(&tools, *link).map_err(HostError::from));
    }
    result
}

/// Another VM that has a link of this plan's id now.
fn other_holder(plan: &Plan, link: LinkId) -> Result<Option<VmName>, HostError> {
    let holder = records::holder(link);
    let holder = holder.map_err(io_error(format!("{} cannot be read", records::DIRECTORY)))?;
    Ok(holder.filter(|client| *client != plan.name))
}

/// The programs of a plan, or else those in PATH; by their names where there are
/// none, so that what takes no program is done.
fn tools(plan: &Plan, environment: &Environment) -> Tools {
    let program = |tool: Tool| environment.tool(&plan.tools, tool).unwrap_or_else(|_| tool.as_str().into());
    Tools { ip: program(Tool::Ip), nft: program(Tool::Nft) }
}
