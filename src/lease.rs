// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Leases: what a VM was given once and keeps, until it is forgotten.
//!
//! A VM's user id is leased, so that what one VM has left behind never becomes
//! another's. The leases are one file in the state directory, JSON that a person
//! can read, and belong to a VM of a source, not to a bare name.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::UidRange;
use crate::durable;
use crate::name::VmId;
use crate::problem::Problem;

/// The version of the file that this program writes and reads.
const LEASES_VERSION: u32 = 1;

/// All leases of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leases {
    version: u32,
    /// User ids; a VM's group id is the same number.
    uids: BTreeMap<VmId, u32>,
}

impl Default for Leases {
    fn default() -> Self {
        Self { version: LEASES_VERSION, uids: BTreeMap::new() }
    }
}

impl Leases {
    /// Reads the leases; none when there is no file yet.
    ///
    /// # Errors
    /// When the file is there and cannot be used: to begin with none would give
    /// a VM what was another's.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let refused = |cause: String| {
            let remedy =
                "restore it from a backup; remove it only if no VM has ever left a file on this host";
            Problem::error(path, cause, remedy)
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(refused(format!("cannot be read: {error}"))),
        };
        let leases: Self = serde_json::from_str(&text)
            .map_err(|error| refused(format!("is not a file of leases: {error}")))?;
        if leases.version != LEASES_VERSION {
            let version = leases.version;
            return Err(refused(format!("has version {version}, this program reads {LEASES_VERSION}")));
        }
        let different: BTreeSet<_> = leases.uids.values().collect();
        if different.len() < leases.uids.len() {
            return Err(refused("gives two VMs the same user id".to_owned()));
        }
        Ok(leases)
    }

    /// Writes the leases, in one step.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        durable::replace_file(path, &text, 0o644)
    }

    /// The user id of a VM: the one it has, or else the next of the range that
    /// no VM has and that is not in `taken`.
    ///
    /// # Errors
    /// When the range has no further one.
    pub fn uid(&mut self, id: &VmId, range: &UidRange, taken: &BTreeSet<u32>) -> Result<u32, NoUidLeft> {
        if let Some(uid) = self.uids.get(id) {
            return Ok(*uid);
        }
        let leased: BTreeSet<_> = self.uids.values().copied().collect();
        // After the last, so that one VM's is not given away while others are free.
        let after = leased.range(range.first..=range.last).next_back().map_or(range.first, |last| last + 1);
        let free = |uid: &u32| !leased.contains(uid) && !taken.contains(uid);
        let uid = (after..=range.last).chain(range.first..after).find(free).ok_or(NoUidLeft)?;
        self.uids.insert(id.clone(), uid);
        Ok(uid)
    }
}

/// All user ids of the range are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all user ids of the range are leased to other VMs")]
pub struct NoUidLeft;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> VmId {
        text.parse().unwrap()
    }

    #[test]
    fn a_lease_never_moves_and_belongs_to_the_source() {
        let range = UidRange { first: 70_000, last: 70_003 };
        let taken = BTreeSet::from([70_001]);
        let mut leases = Leases::default();
        let mut lease = |text: &str| leases.uid(&id(text), &range, &taken);
        assert_eq!(lease("user/a"), Ok(70_000));
        assert_eq!(lease("user/b"), Ok(70_002));
        assert_eq!(lease("other/a"), Ok(70_003));
        assert_eq!(lease("user/c"), Err(NoUidLeft));
        assert_eq!(lease("user/a"), Ok(70_000));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        assert_eq!(Leases::read(&path), Ok(Leases::default()));
        leases.write(&path).unwrap();
        assert_eq!(Leases::read(&path), Ok(leases));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_never_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.json");
        for bad in [
            "",
            "{",
            "{}",
            r#"{"version": 2, "uids": {}}"#,
            r#"{"version": 1, "uids": {"a": 1}}"#,
            r#"{"version": 1, "uids": {"s/a": 70000, "s/b": 70000}}"#,
        ] {
            std::fs::write(&path, bad).unwrap();
            let problem = Leases::read(&path).unwrap_err();
            assert!(problem.remedy.contains("backup"), "{bad}");
        }
    }
}
