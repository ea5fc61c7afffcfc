// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What somebody said that a VM directory names, before it could be looked at.
//!
//! Nix evaluates networks and shared directories of VMs whose directories are
//! yet to be built. What it was told must be what is there in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::base::name::VmName;
use crate::base::problem::{Problem, Problems};
use crate::directory::definition::Definition;

/// What to do about a difference.
const REMEDY: &str =
    "correct what was declared (in Nix: the arguments providers and shares), or the VM directory";

/// The network providers and shared directories that a VM directory must name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// The network providers.
    providers: BTreeSet<VmName>,
    /// The tags of the shared directories, with the directory where that was said, too.
    shares: BTreeMap<String, Option<String>>,
}

impl Declaration {
    /// Reads a declaration from a file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let refused = |cause: String| {
            let remedy =
                r#"write it like {"providers": ["netvm"], "shares": {"home": "/srv/home", "tmp": null}}"#;
            Problem::error(path, cause, remedy)
        };
        let text = std::fs::read_to_string(path).map_err(|e| refused(format!("cannot be read: {e}")))?;
        serde_json::from_str(&text).map_err(|e| refused(format!("is no declaration: {e}")))
    }

    /// Every difference between what was said and what is there.
    pub fn check(&self, definition: &Definition) -> Problems {
        let mut problems = Problems::default();
        let directory = definition.location.directory();
        let mut differs = |path: &Path, cause: String| problems.error(directory.join(path), cause, REMEDY);
        let is: BTreeSet<_> = definition.network_providers.iter().cloned().collect();
        let provider = |name: &VmName| Path::new("providers/net").join(name.as_str());
        for missing in self.providers.difference(&is) {
            differs(&provider(missing), "was declared, and does not exist".to_owned());
        }
        for unexpected in is.difference(&self.providers) {
            differs(&provider(unexpected), "exists, and was not declared".to_owned());
        }
        for share in &definition.shares {
            match self.shares.get(&share.tag) {
                None => differs(Path::new(&share.entry), "exists, and was not declared".to_owned()),
                Some(Some(source)) if *source != share.source => {
                    differs(
                        Path::new(&share.entry),
                        format!("leads to {}, and {source} was declared", share.source),
                    );
                }
                Some(_) => {}
            }
        }
        for tag in self.shares.keys().filter(|tag| !definition.shares.iter().any(|s| s.tag == **tag)) {
            let entry = Path::new("shared-dirs").join(tag).join("dir");
            differs(&entry, "was declared, and does not exist".to_owned());
        }
        problems
    }
}
