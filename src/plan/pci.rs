// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! PCI devices of the host that the administrator gives to a VM.
//!
//! They are a setting: a VM directory cannot ask for the host's hardware.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::problem::Problems;

/// Where Linux shows its devices (`sysfs(5)`).
pub const SYS: &str = "/sys";
/// The most devices of one VM. Under QEMU each takes a port, of which eight fit into
/// a slot; this leaves room for all other devices of a VM.
pub const MAX_DEVICES: usize = 8;

/// The address of a PCI device: `domain:bus:device.function`, such as
/// `0000:01:00.0`, in lower-case hexadecimal digits as in `/sys/bus/pci/devices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

/// The most devices of a bus (PCI Local Bus Specification).
const DEVICES: u8 = 32;
/// The most functions of a device.
const FUNCTIONS: u8 = 8;

/// Why a text is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PciAddressError {
    /// A short or unusual form. The program does not guess which hardware it hands over.
    #[error("'{given}' is not the full form of a PCI address: write {full}")]
    NotFull {
        /// The text.
        given: String,
        /// The address that it probably means.
        full: PciAddress,
    },
    /// No form of an address.
    #[error("'{0}' is not a PCI address such as 0000:01:00.0; `lspci -D` lists those of a host")]
    Syntax(String),
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        if let Some(address) = parse(text) {
            return Ok(address);
        }
        let lower = text.to_ascii_lowercase();
        Err(match parse(&lower).or_else(|| parse(&format!("0000:{lower}"))) {
            Some(full) => PciAddressError::NotFull { given: text.to_owned(), full },
            None => PciAddressError::Syntax(text.to_owned()),
        })
    }
}

/// Reads the full form and nothing else.
fn parse(text: &str) -> Option<PciAddress> {
    let number = |text: &str, digits: usize| {
        let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if plain { u16::from_str_radix(text, 16).ok() } else { None }
    };
    let byte = |text: &str, digits: usize| number(text, digits).and_then(|n| u8::try_from(n).ok());
    let (domain, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    Some(PciAddress {
        domain: number(domain, 4)?,
        bus: byte(bus, 2)?,
        device: byte(device, 2).filter(|n| *n < DEVICES)?,
        function: byte(function, 1).filter(|n| *n < FUNCTIONS)?,
    })
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl serde::Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for PciAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PciAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]$"
        })
    }
}

/// The device's directory beneath `sys`.
pub fn directory(sys: &Path, device: PciAddress) -> PathBuf {
    sys.join("bus/pci/devices").join(device.to_string())
}

/// How many bits the addresses have to which all of these devices can be given access: the
/// guest's memory and its other devices must not be above. `None` when no IOMMU of theirs
/// tells.
///
/// Intel's tells by its capability register (VT-d specification, 11.4.2): the bits of an
/// address (MGAW), and which levels of page tables there are (SAGAW), for 39, 48 and 57 bits.
/// AMD's page tables have as many levels as an address needs.
pub fn address_bits(sys: &Path, devices: &[PciAddress]) -> Option<u8> {
    let of_device = |device: &PciAddress| {
        let file = directory(sys, *device).join("iommu/intel-iommu/cap");
        let register = u64::from_str_radix(std::fs::read_to_string(file).ok()?.trim(), 16).ok()?;
        let mut by_bits = [(1 << 11, 57), (1 << 10, 48), (1 << 9, 39)].into_iter();
        let (_, by_tables) = by_bits.find(|(bit, _)| register & bit != 0)?;
        let by_register = u8::try_from((register >> 16) & 0x3f).ok()? + 1;
        Some(by_register.min(by_tables))
    };
    devices.iter().filter_map(of_device).min()
}

/// Reports those of the devices that the host does not have.
pub fn check_present(sys: &Path, devices: &[PciAddress], problems: &mut Problems) {
    for directory in devices.iter().map(|device| directory(sys, *device)).filter(|path| !path.is_dir()) {
        problems.error(
            directory,
            "does not exist: this host has no such device",
            "correct the list of the VM's devices; `lspci -D` lists those of the host",
        );
    }
}

/// The first device that the list has twice.
pub fn repeated(devices: &[PciAddress]) -> Option<PciAddress> {
    let mut seen = BTreeSet::new();
    devices.iter().find(|device| !seen.insert(**device)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_narrowest_iommu_counts() {
        let sys = tempfile::tempdir().unwrap();
        let devices: Vec<PciAddress> =
            ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"].iter().map(|it| it.parse().unwrap()).collect();
        let bits = |given: &[(usize, &str)]| {
            for (device, register) in given {
                let unit = sys.path().join(format!("devices/virtual/iommu/dmar{device}"));
                std::fs::create_dir_all(unit.join("intel-iommu")).unwrap();
                std::fs::write(unit.join("intel-iommu/cap"), register).unwrap();
                let directory = directory(sys.path(), devices[*device]);
                std::fs::create_dir_all(&directory).unwrap();
                let _ = std::os::unix::fs::symlink(unit, directory.join("iommu"));
            }
            address_bits(sys.path(), &devices)
        };
        assert_eq!(bits(&[]), None, "none tells");
        // QEMU's with aw-bits=48 and =39, and one of a real machine, which has 39 bits of an
        // address and tables for 39 and 48.
        assert_eq!(bits(&[(0, "d2008c222f0606\n")]), Some(48));
        assert_eq!(bits(&[(1, "d2008c22260206\n")]), Some(39));
        assert_eq!(bits(&[(1, "d2008c222f0606\n")]), Some(48));
        assert_eq!(bits(&[(2, "d2008c40660462\n")]), Some(39));
        assert_eq!(bits(&[(2, "no number\n")]), Some(48), "what tells nothing does not count");
        assert_eq!(bits(&[(2, "0\n")]), Some(48));
    }

    #[test]
    fn only_the_full_form_is_an_address() {
        for good in ["0000:01:00.0", "0000:00:1f.7", "ffff:ff:00.1", "10de:ab:0c.5"] {
            assert_eq!(good.parse::<PciAddress>().unwrap().to_string(), good);
        }
        for (given, full) in
            [("01:00.0", "0000:01:00.0"), ("0000:0A:00.0", "0000:0a:00.0"), ("AB:1F.7", "0000:ab:1f.7")]
        {
            let told = given.parse::<PciAddress>().unwrap_err().to_string();
            assert_eq!(told, format!("'{given}' is not the full form of a PCI address: write {full}"));
        }
        let bad = [
            "",
            ":",
            "0000:01:00",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:01:00.00",
            "00000:01:00.0",
            "0000:1:0.0",
            "0000:01:00.0 ",
            " 0000:01:00.0",
            "0000:01:00.0\n",
            "0000:+1:00.0",
            "0000:01:+0.0",
            "0000-01-00.0",
            "../../../etc",
            "0000:01:00.0/driver",
            "０000:01:00.0",
            "0000:01:00.0,id=x",
        ];
        for bad in bad {
            assert!(matches!(bad.parse::<PciAddress>(), Err(PciAddressError::Syntax(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_there_or_twice() {
        let sys = tempfile::tempdir().unwrap();
        let [here, away]: [PciAddress; 2] = ["0000:01:00.0", "0000:02:00.0"].map(|a| a.parse().unwrap());
        std::fs::create_dir_all(directory(sys.path(), here)).unwrap();
        let mut problems = Problems::default();
        check_present(sys.path(), &[here, away], &mut problems);
        let told: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(told, [sys.path().join("bus/pci/devices/0000:02:00.0")]);
        assert_eq!(repeated(&[here, away, here]), Some(here));
        assert_eq!(repeated(&[here, away]), None);
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_is_written(
            domain: u16, bus: u8, device in 0..DEVICES, function in 0..FUNCTIONS,
        ) {
            let address = PciAddress { domain, bus, device, function };
            let text = address.to_string();
            prop_assert_eq!(text.len(), 12);
            prop_assert_eq!(text.parse(), Ok(address));
            let json = serde_json::to_string(&address).unwrap();
            prop_assert_eq!(serde_json::from_str::<PciAddress>(&json).unwrap(), address);
            let short = text.strip_prefix("0000:").unwrap_or("-").to_owned();
            let told = short.parse::<PciAddress>();
            prop_assert!(told.is_err());
            // The form that the error proposes is right.
            if let Err(PciAddressError::NotFull { full, .. }) = text.to_uppercase().parse::<PciAddress>() {
                prop_assert_eq!(full, address);
            }
        }

        #[test]
        fn what_is_read_is_the_full_form(text in "[0-9a-fA-F:.x/ ,-]{0,14}|\\PC{0,14}") {
            if let Ok(address) = text.parse::<PciAddress>() {
                prop_assert_eq!(address.to_string(), text);
            }
        }
    }
}
