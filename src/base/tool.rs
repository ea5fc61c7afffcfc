// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The programs that running a VM needs, and where they are.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::Access;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

/// A program that running a VM may need.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Tool {
    /// Cloud Hypervisor.
    #[serde(rename = "cloud-hypervisor")]
    CloudHypervisor,
    /// iproute2's tool, which makes tap interfaces.
    #[serde(rename = "ip")]
    Ip,
    /// This program, which the scripts of packages call.
    #[serde(rename = "microvm-spectrum")]
    MicrovmSpectrum,
    /// nftables' tool, which loads the rules that join the taps of a link.
    #[serde(rename = "nft")]
    Nft,
    /// passt, which connects a VM to the host's network without privileges.
    #[serde(rename = "passt")]
    Passt,
    /// QEMU for 64-bit Arm.
    #[serde(rename = "qemu-system-aarch64")]
    QemuAarch64,
    /// QEMU for 64-bit x86.
    #[serde(rename = "qemu-system-x86_64")]
    QemuX86,
    /// The virtio-fs server written in Rust.
    #[serde(rename = "virtiofsd")]
    Virtiofsd,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CloudHypervisor,
        Self::Ip,
        Self::MicrovmSpectrum,
        Self::Nft,
        Self::Passt,
        Self::QemuAarch64,
        Self::QemuX86,
        Self::Virtiofsd,
    ];

    /// The program's file name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Ip => "ip",
            Self::MicrovmSpectrum => "microvm-spectrum",
            Self::Nft => "nft",
            Self::Passt => "passt",
            Self::QemuAarch64 => "qemu-system-aarch64",
            Self::QemuX86 => "qemu-system-x86_64",
            Self::Virtiofsd => "virtiofsd",
        }
    }

    /// Where users can get it.
    pub fn origin(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "package cloud-hypervisor of Nixpkgs, or its releases",
            Self::Ip => "package iproute2 of Debian and Nixpkgs",
            Self::MicrovmSpectrum => "this program",
            Self::Nft => "package nftables of Debian and Nixpkgs",
            Self::Passt => "package passt of Debian and Nixpkgs",
            Self::QemuAarch64 => "package qemu-system-arm of Debian, qemu of Nixpkgs",
            Self::QemuX86 => "package qemu-system-x86 of Debian, qemu of Nixpkgs",
            Self::Virtiofsd => "package virtiofsd of Debian 13 or Nixpkgs, or cargo install virtiofsd",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a `NAME=PATH` of a tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// There is no `=`.
    #[error("expected NAME=PATH, such as virtiofsd=/usr/libexec/virtiofsd")]
    Syntax,
    /// No tool has that name.
    #[error("there is no tool '{0}'; the tools are {all}", all = Tool::ALL.map(Tool::as_str).join(", "))]
    Unknown(String),
}

impl FromStr for Tool {
    type Err = ToolError;

    fn from_str(text: &str) -> Result<Self, ToolError> {
        Self::ALL
            .into_iter()
            .find(|tool| tool.as_str() == text)
            .ok_or_else(|| ToolError::Unknown(text.to_owned()))
    }
}

/// Programs that former versions needed. What they have written still names them.
const FORMER: [&str; 1] = ["ch-remote"];

/// A key of a table of tools; that of a former version is none.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key(Option<Tool>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if FORMER.contains(&name.as_str()) {
            return Ok(Self(None));
        }
        Tool::deserialize(StrDeserializer::new(&name)).map(|tool| Self(Some(tool)))
    }
}

/// Reads the paths of tools, and passes over those of former versions.
///
/// # Errors
/// When a key is no tool's name, or a value no path.
pub fn read_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Tool, PathBuf>, D::Error> {
    let read = BTreeMap::<Key, PathBuf>::deserialize(deserializer)?;
    Ok(read.into_iter().filter_map(|(Key(tool), path)| Some((tool?, path))).collect())
}

/// Directories outside of PATH where distributions keep virtiofsd.
const VIRTIOFSD_DIRECTORIES: [&str; 2] = ["/usr/libexec", "/usr/lib/virtiofsd"];

/// Looks for every tool that is not `given` in the directories of `path`.
///
/// `path` has the form of the environment variable PATH; relative directories are
/// ignored. The result leaves out tools that are not found.
pub fn find_all(given: &BTreeMap<Tool, PathBuf>, path: &OsStr) -> BTreeMap<Tool, PathBuf> {
    let mut found = given.clone();
    for tool in Tool::ALL {
        let extra = VIRTIOFSD_DIRECTORIES.iter().filter(|_| tool == Tool::Virtiofsd).map(PathBuf::from);
        let mut directories = std::env::split_paths(path).filter(|d| d.is_absolute()).chain(extra);
        if let std::collections::btree_map::Entry::Vacant(entry) = found.entry(tool)
            && let Some(path) = directories.find_map(|d| executable(&d.join(tool.as_str())))
        {
            entry.insert(path);
        }
    }
    found
}

/// The first executable file `name` in the directories of `path`, which has the form
/// of the environment variable PATH.
pub fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|d| d.is_absolute()).find_map(|d| executable(&d.join(name)))
}

fn executable(path: &Path) -> Option<PathBuf> {
    let is_file = path.metadata().is_ok_and(|m| m.is_file());
    (is_file && rustix::fs::access(path, Access::EXEC_OK).is_ok()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn finds_only_executable_files_and_keeps_what_is_given() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("nft", 0o755), ("qemu-system-x86_64", 0o644)] {
            let file = dir.path().join(name);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(dir.path().join("cloud-hypervisor")).unwrap();
        let given = BTreeMap::from([(Tool::Virtiofsd, PathBuf::from("/given"))]);
        let path = std::env::join_paths([Path::new("relative"), dir.path()]).unwrap();
        let found = find_all(&given, &path);
        assert_eq!(
            found,
            BTreeMap::from(
                [(Tool::Nft, dir.path().join("nft")), (Tool::Virtiofsd, PathBuf::from("/given")),]
            )
        );
    }

    #[test]
    fn names_round_trip() {
        for tool in Tool::ALL {
            assert_eq!(tool.as_str().parse(), Ok(tool));
            assert_eq!(serde_json::to_value(tool).unwrap(), tool.as_str());
        }
        assert!("qemu".parse::<Tool>().is_err());
    }
}
