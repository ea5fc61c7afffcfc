// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The host's side of a link: two taps and what joins them.
//!
//! A frame that leaves one tap enters the other before the host's own network sees
//! it, so no address, firewall or bridge of the host is involved. Only frames with the
//! sender's own addresses pass. The bridge shows which taps belong together, and keeps
//! network managers from configuring them. It forwards nothing itself.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::base::template;
use crate::link::id::{InterfaceName, LinkId};
use crate::system::accounts;
use crate::system::program::{self, ProgramError};

/// How a supervisor's status text for systemd begins when a link of its VM is dead.
pub const DEAD_LINK: &str = "a link is dead: ";

/// The rules of a link, for `nft(8)`, which replaces all of them in one transaction.
const RULES: &str = include_str!("link.nft.hbs");

/// The programs with which the host makes links.
#[derive(Debug, Clone)]
pub struct Tools {
    /// iproute2's `ip`.
    pub ip: PathBuf,
    /// nftables' `nft`.
    pub nft: PathBuf,
}

/// Why the host could not make or remove a link.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A file of the kernel cannot be written.
    #[error("{what}: {error}")]
    Io {
        /// What failed.
        what: String,
        /// The system's error.
        error: io::Error,
    },
    /// Another interface has that name.
    #[error("{0} exists and is not what a link needs: remove or rename it")]
    Taken(InterfaceName),
}

/// Makes a link with one tap for each user, and keeps the parts that are already right.
/// Returns whether the provider's tap is new.
///
/// # Errors
/// See [`WireError`]. The caller then removes the parts that were made with [`down`].
pub fn up(tools: &Tools, link: LinkId, client_user: u32, provider_user: u32) -> Result<bool, WireError> {
    let bridge = link.bridge();
    let mut new = BTreeSet::new();
    match Interface::find(&tools.ip, &bridge)? {
        None => {
            let mut add = vec!["link", "add", "name", &bridge, "type", "bridge"];
            add.extend(["stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]);
            add.extend(["nf_call_iptables", "0", "nf_call_ip6tables", "0", "nf_call_arptables", "0"]);
            ip(tools, &add)?;
        }
        Some(found) if found.kind() != BRIDGE => return Err(WireError::Taken(bridge)),
        Some(_) => {}
    }
    quieten(tools, &bridge)?;
    for (tap, user) in [(link.client_tap(), client_user), (link.provider_tap(), provider_user)] {
        let found = Interface::find(&tools.ip, &tap)?;
        if found.as_ref().is_some_and(|found| found.kind() != TAP) {
            return Err(WireError::Taken(tap));
        }
        // Whoever has it open can give it to another user (TUNSETOWNER).
        let is_right = found.as_ref().is_some_and(|found| found.is_for(user));
        if found.is_some() && !is_right {
            ip(tools, &["link", "delete", "dev", &tap])?;
        }
        if !is_right {
            let user = user.to_string();
            ip(tools, &["tuntap", "add", "dev", &tap, "mode", "tap", "vnet_hdr", "user", &user])?;
            new.insert(tap.clone());
        }
        quieten(tools, &tap)?;
    }
    // Before the taps are up.
    rules(tools, link)?;
    // The bridge stays down and forwards nothing, so that the link stays closed when the
    // administrator reloads the firewall and these rules are lost.
    ip(tools, &["link", "set", "dev", &bridge, "down"])?;
    for tap in [link.client_tap(), link.provider_tap()] {
        ip(tools, &["link", "set", "dev", &tap, "master", &bridge, "up"])?;
    }
    Ok(new.contains(&link.provider_tap()))
}

/// Removes the parts of a link that exist.
///
/// # Errors
/// The first one; it tries to remove every part.
pub fn down(tools: &Tools, link: LinkId) -> Result<(), WireError> {
    let mut result = Ok(());
    for (name, kind) in [(link.client_tap(), TAP), (link.provider_tap(), TAP), (link.bridge(), BRIDGE)] {
        let removed = match Interface::find(&tools.ip, &name) {
            Ok(Some(found)) if found.kind() == kind => ip(tools, &["link", "delete", "dev", &name]),
            found => found.map(drop),
        };
        result = result.and(removed);
    }
    let script = format!("add table netdev {0}\ndelete table netdev {0}\n", table(link));
    result.and(nft(tools, &script))
}

/// Whether a VMM has the provider's tap open.
pub fn provider_is_attached(tools: &Tools, link: LinkId) -> bool {
    let found = Interface::find(&tools.ip, &link.provider_tap());
    found.is_ok_and(|found| found.is_some_and(|it| it.flags.iter().any(|flag| flag == "LOWER_UP")))
}

/// The interfaces of this process' network namespace. `/sys/class/net` shows those of the
/// namespace that `/sys` was mounted in, which is another one in units.
pub const INTERFACES: &str = "/proc/self/net/dev";

/// Whether this network namespace has an interface of that name.
pub fn exists(name: &str) -> bool {
    let interfaces = std::fs::read_to_string(INTERFACES).unwrap_or_default();
    interfaces.lines().filter_map(|line| line.split_once(':')).any(|(found, _)| found.trim() == name)
}

/// Whether there is such an interface and it is a tap, not a network card.
///
/// # Errors
/// When `ip`, which is at this path, fails.
pub fn is_tap(ip: &Path, name: &str) -> Result<bool, WireError> {
    Ok(Interface::find(ip, name)?.is_some_and(|found| found.kind() == TAP))
}

/// The kinds of interfaces that a link is made of, as `ip` calls them.
const BRIDGE: &str = "bridge";
const TAP: &str = "tun";

/// An interface, as `ip -json -details link` shows it.
#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default, rename = "linkinfo")]
    info: Info,
}

#[derive(Default, Deserialize)]
struct Info {
    #[serde(default, rename = "info_kind")]
    kind: String,
    #[serde(default, rename = "info_data")]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    user: Option<Owner>,
}

/// The owner of a tap, by name where `ip` finds one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Owner {
    Id(u32),
    Name(String),
}

impl Interface {
    /// The interface of that name, if there is one.
    fn find(ip: &Path, name: &str) -> Result<Option<Self>, WireError> {
        if !exists(name) {
            return Ok(None);
        }
        let shown =
            program::output(Command::new(ip).args(["-json", "-details", "link", "show", "dev", name]), "");
        let shown = match shown {
            // Another process has removed it.
            Err(_) if !exists(name) => return Ok(None),
            shown => shown?,
        };
        let parsed: Result<Vec<Self>, _> = serde_json::from_slice(&shown);
        let found = parsed.map_err(|error| WireError::Io {
            what: format!("{} shows {name} in another form than expected", ip.display()),
            error: error.into(),
        })?;
        Ok(found.into_iter().next())
    }

    fn kind(&self) -> &str {
        &self.info.kind
    }

    fn is_for(&self, user: u32) -> bool {
        match &self.info.data.user {
            Some(Owner::Id(id)) => *id == user,
            Some(Owner::Name(name)) => accounts::user_id(name).is_ok_and(|id| id == Some(user)),
            None => false,
        }
    }
}

/// Keeps the host from sending on an interface by itself, and from listening.
fn quieten(tools: &Tools, name: &str) -> Result<(), WireError> {
    ip(tools, &["link", "set", "dev", name, "arp", "off"])?;
    let directory = Path::new("/proc/sys/net/ipv6/conf").join(name);
    for (file, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        let path = directory.join(file);
        match std::fs::write(&path, value) {
            // A host without IPv6 (`ipv6.disable=1`), which has no addrgenmode either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(|error| WireError::Io {
                what: format!("{} cannot be written", path.display()),
                error,
            })?,
        }
    }
    ip(tools, &["link", "set", "dev", name, "addrgenmode", "none"])
}

/// The name of a link's table of rules; a hyphen would be an operator.
fn table(link: LinkId) -> String {
    format!("vm_{link}")
}

fn rules(tools: &Tools, link: LinkId) -> Result<(), WireError> {
    let data = serde_json::json!({
        "table": table(link),
        "client_tap": link.client_tap(),
        "client_mac": link.client_mac().to_string(),
        "client_ipv4": link.client_ipv4(),
        "provider_tap": link.provider_tap(),
        "provider_mac": link.provider_mac().to_string(),
    });
    nft(tools, &template::render(RULES, &data))
}

fn ip(tools: &Tools, arguments: &[&str]) -> Result<(), WireError> {
    Ok(program::run(Command::new(&tools.ip).args(arguments))?)
}

fn nft(tools: &Tools, script: &str) -> Result<(), WireError> {
    program::output(Command::new(&tools.nft).args(["--file", "-"]), script)?;
    Ok(())
}
