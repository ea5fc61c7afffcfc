// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A client's links to its network providers: taps, rules, and the records that
//! tell the providers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::name::VmName;
use crate::base::tool::{self, Tool};
use crate::host::HostError;
use crate::link::id::{LinkError, LinkId};
use crate::link::records;
use crate::link::taps::{self, Tools};
use crate::plan::{InterfacePlan, Plan};

use super::io_error;

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
) -> Result<(), HostError> {
    let tools = tools(plan);
    let links = links(plan)?;
    for (_, link) in &links {
        // Its id was given to this VM while the other runs with it.
        if let Some(client) = other_holder(plan, *link)? {
            return Err(HostError::LinkInUse { link: *link, client });
        }
    }
    let made = links.into_iter().try_for_each(|(interface, link)| {
        let new = taps::up(&tools, link, client_user, provider_user(&interface.provider))?;
        records::record(&interface.provider, link, &plan.name, new)
            .map_err(io_error(format!("{} cannot be told", interface.provider)))
    });
    if made.is_err() {
        let _ = links_down(plan);
    }
    made
}

/// Tells the providers of a client that it has gone, gives them a moment, and
/// removes all links, as far as they are there.
///
/// # Errors
/// See [`HostError`]; everything was tried.
pub fn links_down(plan: &Plan) -> Result<(), HostError> {
    let tools = tools(plan);
    let mut links = links(plan)?;
    let mut result = Ok(());
    links.retain(|(_, link)| !matches!(other_holder(plan, *link), Ok(Some(_))));
    for (interface, link) in &links {
        let removed = records::remove(&interface.provider, *link)
            .map_err(io_error(format!("{} cannot be told", interface.provider)));
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

fn links(plan: &Plan) -> Result<Vec<(&InterfacePlan, LinkId)>, HostError> {
    let mut links = Vec::new();
    for interface in &plan.interfaces {
        let wrong = |error: LinkError| HostError::Package(format!("the link id {}: {error}", interface.link));
        links.push((interface, interface.link.parse().map_err(wrong)?));
    }
    Ok(links)
}

/// The programs of a plan, or else those in PATH.
fn tools(plan: &Plan) -> Tools {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = tool::find_all(&plan.tools, &path);
    let program = |tool: Tool| found.get(&tool).cloned().unwrap_or_else(|| PathBuf::from(tool.as_str()));
    Tools { ip: program(Tool::Ip), nft: program(Tool::Nft) }
}
