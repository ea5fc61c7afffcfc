// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Network links between VMs: ids, MAC and IPv4 addresses, interface names.
//!
//! The addressing is Spectrum's ("Creating Custom VMs", section Networking):
//! interfaces of links have the OUI `0A:B3:EC`, and a client takes the IPv4
//! address `100.64.x.y` whose last two octets are those of its MAC address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::id_set::LinkIds;
use crate::base::name::VmName;

/// The organisationally unique identifier of every link interface.
pub const OUI: [u8; 3] = [0x0a, 0xb3, 0xec];

/// A link's id, 16 bits, written as four hexadecimal digits; never `0000` or `ffff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u16);

/// Why a text or number is not a link id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not four hexadecimal digits.
    #[error("a link id is four hexadecimal digits such as a546")]
    Syntax,
    /// The ids of the network address and of the broadcast address.
    #[error("the link ids 0000 and ffff are not used")]
    Reserved,
    /// All 65,534 ids are taken.
    #[error("all 65534 link ids are taken")]
    Exhausted,
}

impl LinkId {
    /// The id with this number.
    ///
    /// # Errors
    /// [`LinkError::Reserved`] for 0 and 65535.
    pub fn new(number: u16) -> Result<Self, LinkError> {
        match number {
            0 | u16::MAX => Err(LinkError::Reserved),
            number => Ok(Self(number)),
        }
    }

    /// The id of the link from `client` to `provider` that is not in `taken`.
    ///
    /// It is the first two bytes of the SHA-256 of both names with a line feed between
    /// them (neither can contain one) or, if that id is taken, the next free one.
    ///
    /// # Errors
    /// [`LinkError::Exhausted`] when no id is free.
    pub fn derive(client: &VmName, provider: &VmName, taken: &BTreeSet<Self>) -> Result<Self, LinkError> {
        let taken: LinkIds = taken.iter().copied().collect();
        Self::derive_by(client, provider, |first| taken.free_from(first))
    }

    /// Like [`LinkId::derive`], but `free_from` finds the next free id from one on.
    ///
    /// # Errors
    /// [`LinkError::Exhausted`] when no id is free.
    pub fn derive_by(
        client: &VmName,
        provider: &VmName,
        free_from: impl Fn(Self) -> Option<Self>,
    ) -> Result<Self, LinkError> {
        let digest = Sha256::digest(format!("{client}\n{provider}"));
        let first = digest.iter().take(2).fold(0u16, |n, byte| n << 8 | u16::from(*byte));
        // The id after 65535 and 0 is 1.
        free_from(Self::new(first).unwrap_or(Self(1))).ok_or(LinkError::Exhausted)
    }

    /// The id that a link gets where all are free.
    pub fn first(client: &VmName, provider: &VmName) -> Self {
        Self::derive_by(client, provider, Some).unwrap_or(Self(1))
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The MAC address of the client's interface.
    pub fn client_mac(self) -> MacAddress {
        self.mac(0x00)
    }

    /// The MAC address of the provider's interface.
    pub fn provider_mac(self) -> MacAddress {
        self.mac(0x80)
    }

    fn mac(self, side: u8) -> MacAddress {
        let [high, low] = self.0.to_be_bytes();
        let [a, b, c] = OUI;
        MacAddress([a, b, c, side, high, low])
    }

    /// The IPv4 address that the client's guest takes.
    pub fn client_ipv4(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(100, 64, high, low)
    }

    /// The host's tap interface for the client.
    pub fn client_tap(self) -> InterfaceName {
        InterfaceName(format!("vmc-{self}"))
    }

    /// The host's tap interface for the provider.
    pub fn provider_tap(self) -> InterfaceName {
        InterfaceName(format!("vmr-{self}"))
    }

    /// The host's bridge that joins the two taps.
    pub fn bridge(self) -> InterfaceName {
        InterfaceName(format!("vmb-{self}"))
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl FromStr for LinkId {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        if text.len() != 4 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(LinkError::Syntax);
        }
        u16::from_str_radix(text, 16).map_err(|_| LinkError::Syntax).and_then(Self::new)
    }
}

/// An Ethernet address, written as six upper-case hexadecimal pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of a VM's uplink, which follows from the VM's name.
    ///
    /// It is locally administered (the bit 0x02 of the first byte, IEEE 802), and begins with 02, so
    /// that it has nothing of [`OUI`].
    pub fn of_uplink(vm: &VmName) -> Self {
        let digest = Sha256::digest(format!("uplink\n{vm}"));
        let mut bytes = [0x02; 6];
        bytes.iter_mut().skip(1).zip(digest).for_each(|(byte, of_digest)| *byte = of_digest);
        Self(bytes)
    }
}

/// A text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of upper-case hexadecimal digits such as 0A:B3:EC:00:A5:46")]
pub struct MacAddressError;

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02X}:{b:02X}:{c:02X}:{d:02X}:{e:02X}:{g:02X}")
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let pairs: Option<Vec<_>> = text.split(':').map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
        let address = pairs.and_then(|pairs| pairs.try_into().ok()).map(Self).ok_or(MacAddressError)?;
        // One way to write it, without signs.
        if address.to_string() == text { Ok(address) } else { Err(MacAddressError) }
    }
}

/// The longest name of a network interface, in bytes (`IFNAMSIZ` in Linux' `if.h`, less one).
const MAX_INTERFACE_BYTES: usize = 15;

/// The name of one of the host's network interfaces, which neither a path nor a
/// program's argument takes for anything else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(String);

/// A text is not the name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an interface's name has at most {MAX_INTERFACE_BYTES} letters, digits, '-', '_' and '.', and begins with neither '-' nor '.'"
)]
pub struct InterfaceNameError;

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=MAX_INTERFACE_BYTES).contains(&text.len());
        let plain = text.bytes().all(known) && !text.starts_with(['-', '.']);
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(InterfaceNameError) }
    }
}

impl std::ops::Deref for InterfaceName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// Has serde write these types as their text, and read them from it.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(LinkId, MacAddress, InterfaceName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> VmName {
        VmName::new(text).unwrap()
    }

    #[test]
    fn the_documented_example() {
        let id: LinkId = "a546".parse().unwrap();
        assert_eq!(id.client_mac().to_string(), "0A:B3:EC:00:A5:46");
        assert_eq!(id.provider_mac().to_string(), "0A:B3:EC:80:A5:46");
        assert_eq!(id.client_ipv4(), Ipv4Addr::new(100, 64, 165, 70));
        assert_eq!(
            (&*id.client_tap(), &*id.provider_tap(), &*id.bridge()),
            ("vmc-a546", "vmr-a546", "vmb-a546")
        );
    }

    #[test]
    fn refuses_other_texts() {
        assert_eq!("0000".parse::<LinkId>(), Err(LinkError::Reserved));
        assert_eq!("FFFF".parse::<LinkId>(), Err(LinkError::Reserved));
        for bad in ["", "1", "+123", "12345", "12g4", " 123"] {
            assert_eq!(bad.parse::<LinkId>(), Err(LinkError::Syntax), "{bad}");
        }
    }

    #[test]
    fn refuses_what_is_no_address_and_no_name_of_an_interface() {
        for bad in ["", "0A:B3:EC:00:A5", "0A:B3:EC:00:A5:46:00", "0a:b3:ec:00:a5:46", "0A:B3:EC:00:A5:+6"] {
            assert_eq!(bad.parse::<MacAddress>(), Err(MacAddressError), "{bad}");
        }
        assert!("vnet_0.tap-A".parse::<InterfaceName>().is_ok());
        for bad in ["", ".", "-batch", "a/b", "a b", "a;b", "sixteen-letters-", "\u{fc}", "eth0\u{1b}[31m"] {
            assert_eq!(bad.parse::<InterfaceName>(), Err(InterfaceNameError), "{bad}");
        }
    }

    #[test]
    fn a_collision_takes_the_next_free_id_and_skips_the_reserved_ones() {
        let (client, provider) = (name("appvm-lynx"), name("netvm"));
        let first = LinkId::derive(&client, &provider, &BTreeSet::new()).unwrap();
        let second = LinkId::derive(&client, &provider, &BTreeSet::from([first])).unwrap();
        assert_eq!(second.0, first.0 + 1);
        let all_but_one: BTreeSet<_> = (2..u16::MAX).map(LinkId).collect();
        assert_eq!(LinkId::derive(&client, &provider, &all_but_one), Ok(LinkId(1)));
        let all: BTreeSet<_> = (1..u16::MAX).map(LinkId).collect();
        assert_eq!(LinkId::derive(&client, &provider, &all), Err(LinkError::Exhausted));
    }

    proptest! {
        #[test]
        fn every_id_has_valid_names_and_addresses(number in 1..u16::MAX) {
            let id = LinkId::new(number).unwrap();
            prop_assert_eq!(id.to_string().parse::<LinkId>().unwrap(), id);
            prop_assert_eq!(id.client_mac().to_string().parse(), Ok(id.client_mac()));
            prop_assert_eq!(id.provider_tap().parse(), Ok(id.provider_tap()));
            prop_assert!(id.bridge().len() <= 15);
            prop_assert_eq!(id.client_ipv4().octets()[2..].to_vec(), number.to_be_bytes().to_vec());
        }
    }
}
