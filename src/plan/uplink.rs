// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A VM's connection to the host's network, which passt makes without privileges.
//!
//! The guest has a network of its own with passt: these addresses are the same in every VM and
//! wherever the host is, and are not seen outside. They are of 192.0.0.0/29, which is for such a
//! use and collides with no network that the host may be in (RFC 7335).

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::name::VmName;
use crate::link::id::MacAddress;
use crate::plan::runtime::SocketNames;

/// The address that the guest gets by DHCP.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// The guest's gateway and name server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// The netmask of both.
pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 248);

/// The connection to the host's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkPlan {
    /// The MAC address that the guest sees.
    #[schemars(with = "String")]
    pub mac: MacAddress,
    /// The IPv4 address that the guest gets by DHCP.
    pub ipv4: Ipv4Addr,
    /// passt's socket, relative to the directory where the VM runs.
    pub socket: String,
    /// The ports of the host that lead to the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortForward>,
}

impl UplinkPlan {
    /// That of the VM `name`, with these ports.
    pub fn new(name: &VmName, ports: &[PortForward]) -> Self {
        Self {
            mac: MacAddress::of_uplink(name),
            ipv4: GUEST,
            socket: SocketNames::new(name).uplink(),
            ports: ports.to_vec(),
        }
    }
}

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a port of the guest: `ADDRESS:HOSTPORT:GUESTPORT`, with `/udp`
/// behind it for UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; 0.0.0.0 for all that it has.
    pub address: Ipv4Addr,
    /// The host's port.
    pub host: NonZeroU16,
    /// The guest's port.
    pub guest: NonZeroU16,
}

/// The first port that every user may listen at (`ip_unprivileged_port_start`, `ip(7)`).
const FIRST_UNPRIVILEGED: u16 = 1024;

impl PortForward {
    /// Whether both cannot be at a time.
    pub fn collides(&self, other: &Self) -> bool {
        let any = self.address.is_unspecified() || other.address.is_unspecified();
        (self.protocol, self.host) == (other.protocol, other.host) && (any || self.address == other.address)
    }

    /// Whether only privileged users may listen at it.
    pub fn is_privileged(&self) -> bool {
        self.host.get() < FIRST_UNPRIVILEGED
    }
}

/// Why a text is not a [`PortForward`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not ADDRESS:HOSTPORT:GUESTPORT, such as 127.0.0.1:8080:80 or 0.0.0.0:53:53/udp: an IPv4 address of the \
     host, its port, and the guest's"
)]
pub struct PortForwardError(String);

impl FromStr for PortForward {
    type Err = PortForwardError;

    fn from_str(text: &str) -> Result<Self, PortForwardError> {
        let parse = || {
            let (rest, protocol) = match text.strip_suffix("/udp") {
                Some(rest) => (rest, Protocol::Udp),
                None => (text, Protocol::Tcp),
            };
            let mut parts = rest.split(':');
            let (address, host, guest) = (parts.next()?, parts.next()?, parts.next()?);
            let (address, host, guest) = (address.parse().ok()?, host.parse().ok()?, guest.parse().ok()?);
            let found = Self { protocol, address, host, guest };
            // One way to write it, without signs and leading zeros, and nothing behind it.
            (found.to_string() == text).then_some(found)
        };
        parse().ok_or_else(|| PortForwardError(text.to_owned()))
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, host, guest } = self;
        let protocol = if *protocol == Protocol::Udp { "/udp" } else { "" };
        write!(f, "{address}:{host}:{guest}{protocol}")
    }
}

impl Serialize for PortForward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortForward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PortForward {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortForward".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A port of the host that leads to one of the guest: ADDRESS:HOSTPORT:GUESTPORT, or that and /udp.",
            "type": "string",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(text: &str) -> PortForward {
        text.parse().unwrap()
    }

    #[test]
    fn has_one_way_to_write_it() {
        for good in ["127.0.0.1:8080:80", "0.0.0.0:1:65535/udp"] {
            assert_eq!(port(good).to_string(), good);
        }
        for bad in [
            "",
            "80",
            "8080:80",
            ":8080:80",
            "localhost:8080:80",
            "[::1]:8080:80",
            "127.0.0.1:0:80",
            "127.0.0.1:80:65536",
            "127.0.0.1:+80:80",
            "127.0.0.1:080:80",
            "127.0.0.01:80:80",
            "127.0.0.1:80:80/tcp",
            "127.0.0.1:80:80:80",
            "127.0.0.1:80:80 ",
            "127.0.0.1/80:80",
            "127.0.0.1:80-90:80",
        ] {
            assert!(bad.parse::<PortForward>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_collide_where_only_one_can_listen() {
        let one = port("127.0.0.1:8080:80");
        for (other, collides) in [
            ("127.0.0.1:8080:81", true),
            ("0.0.0.0:8080:80", true),
            ("127.0.0.2:8080:80", false),
            ("127.0.0.1:8081:80", false),
            ("127.0.0.1:8080:80/udp", false),
        ] {
            assert_eq!(
                (one.collides(&port(other)), port(other).collides(&one)),
                (collides, collides),
                "{other}"
            );
        }
        assert!(port("127.0.0.1:1023:80").is_privileged() && !port("127.0.0.1:1024:80").is_privileged());
    }

    #[test]
    fn the_mac_address_is_stable_and_not_of_a_link() {
        let mac = |name: &str| MacAddress::of_uplink(&VmName::new(name).unwrap()).to_string();
        assert_eq!(mac("netvm"), "02:3D:19:AE:64:6D");
        assert_ne!(mac("netvm"), mac("netvm2"));
    }
}
