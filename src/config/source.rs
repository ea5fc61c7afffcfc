// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources, as the configuration describes them.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::location::MAX_VMS;
use crate::base::name::SourceName;
use crate::directory::boundary::AllowedPrefix;

/// How many VMs of a user partition can run by default.
const DEFAULT_MAX_VMS: usize = 1_000;

/// Where systemd mounts the partitions that the configuration names by PARTUUID.
pub const PARTITIONS: &str = "/run/microvm-spectrum/partitions";

/// What kind of place a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A directory with VM directories that belongs to the system.
    Builtin,
    /// A partition with VM directories in its `svc/data`.
    UserPartition,
}

/// The identity of a partition, as in `/dev/disk/by-partuuid`: a UUID (GPT), or the
/// disk's number and the partition's (MBR), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct PartUuid(String);

/// Why a text is not a [`PartUuid`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a PARTUUID: write it as in /dev/disk/by-partuuid, in hexadecimal digits and '-'")]
pub struct PartUuidError(String);

impl TryFrom<String> for PartUuid {
    type Error = PartUuidError;

    fn try_from(text: String) -> Result<Self, PartUuidError> {
        let lengths: Vec<_> = text.split('-').map(str::len).collect();
        let hexadecimal = text.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
        if hexadecimal && (lengths == [8, 4, 4, 4, 12] || lengths == [8, 2]) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(PartUuidError(text))
        }
    }
}

impl fmt::Display for PartUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A source: a place with VM directories.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// What kind of place it is.
    pub kind: SourceKind,
    /// Its name.
    pub name: SourceName,
    /// Where it is on this host, an absolute path.
    path: Option<PathBuf>,
    /// The partition, which systemd mounts when it appears.
    pub partuuid: Option<PartUuid>,
    /// Where else the links of its VM directories may lead.
    #[serde(default, deserialize_with = "allowed")]
    pub allow: Vec<AllowedPrefix>,
    /// Whether VMs of it may start with the host.
    autostart: Option<bool>,
    /// Whether the cluster decides which hosts run its VMs.
    pub cluster: Option<bool>,
    /// How many of its VMs can run.
    #[serde(rename = "max-vms")]
    max_vms: Option<usize>,
    /// The name of the user whose session shows the windows of its VMs.
    #[serde(rename = "wayland-user")]
    pub wayland_user: Option<String>,
}

fn allowed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<AllowedPrefix>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

impl SourceConfig {
    /// Where it is, or where its partition will be mounted.
    pub fn root(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| Path::new(PARTITIONS).join(self.name.to_string()))
    }

    /// Whether its VMs may start with the host. Those of a partition, which may appear
    /// by itself, may only if the administrator allows it.
    pub fn may_autostart(&self) -> bool {
        self.autostart.unwrap_or(self.kind == SourceKind::Builtin)
    }

    /// How many of its VMs can run; removed ones count as long as they have leases. Those of
    /// a partition, which others may write, are fewer unless the administrator says so.
    pub fn max_vms(&self) -> usize {
        self.max_vms.unwrap_or(match self.kind {
            SourceKind::Builtin => MAX_VMS,
            SourceKind::UserPartition => DEFAULT_MAX_VMS,
        })
    }

    /// The path that the configuration sets.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}
