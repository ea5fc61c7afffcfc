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

use crate::base::template;
use crate::link::id::{InterfaceName, LinkId};
use crate::system::program::{self, ProgramError};

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
    if !exists(&bridge) {
        let mut add = vec!["link", "add", "name", &bridge, "type", "bridge"];
        add.extend(["stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]);
        add.extend(["nf_call_iptables", "0", "nf_call_ip6tables", "0", "nf_call_arptables", "0"]);
        ip(tools, &add)?;
    } else if !is(&bridge, "bridge") {
        return Err(WireError::Taken(bridge));
    }
    quieten(tools, &bridge)?;
    for (tap, user) in [(link.client_tap(), client_user), (link.provider_tap(), provider_user)] {
        if exists(&tap) && !is(&tap, "tun_flags") {
            return Err(WireError::Taken(tap));
        }
        if owner(&tap).is_some_and(|owner| owner != user) {
            ip(tools, &["link", "delete", "dev", &tap])?;
        }
        if !exists(&tap) {
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
    for (name, kind) in
        [(link.client_tap(), "tun_flags"), (link.provider_tap(), "tun_flags"), (link.bridge(), "bridge")]
    {
        if is(&name, kind) {
            result = result.and(ip(tools, &["link", "delete", "dev", &name]));
        }
    }
    let script = format!("add table netdev {0}\ndelete table netdev {0}\n", table(link));
    result.and(nft(tools, &script))
}

/// Whether a VMM has the provider's tap open.
pub fn provider_is_attached(link: LinkId) -> bool {
    std::fs::read_to_string(interface(&link.provider_tap()).join("carrier"))
        .is_ok_and(|text| text.trim() == "1")
}

fn interface(name: &str) -> PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn exists(name: &str) -> bool {
    interface(name).exists()
}

/// Whether an interface has the attribute that only its type has.
fn is(name: &str, attribute: &str) -> bool {
    interface(name).join(attribute).exists()
}

/// The user id that may open a tap; an id that no user has if all may.
fn owner(tap: &str) -> Option<u32> {
    let text = std::fs::read_to_string(interface(tap).join("owner")).ok()?;
    Some(text.trim().parse().unwrap_or(u32::MAX))
}

/// Keeps the host from sending on an interface by itself.
fn quieten(tools: &Tools, name: &str) -> Result<(), WireError> {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6");
    match std::fs::write(&path, "1") {
        // A host without IPv6 (`ipv6.disable=1`), which has no addrgenmode either.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|error| WireError::Io {
            what: format!("{} cannot be written", path.display()),
            error,
        })?,
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
