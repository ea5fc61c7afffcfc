// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the administrator declared about a VM directory before it existed.
//!
//! Nix evaluates the networks and shared directories of VMs before it builds their
//! directories. The built directory must match the declaration.

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
    /// The tags of the shared directories, each with the directory if that was declared.
    shares: BTreeMap<String, Option<String>>,
}

impl Declaration {
    /// Reads a declaration from a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a declaration.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let refused = |cause: String| {
            let remedy =
                r#"write it like {"providers": ["netvm"], "shares": {"home": "/srv/home", "tmp": null}}"#;
            Problem::error(path, cause, remedy)
        };
        let text = std::fs::read_to_string(path).map_err(|e| refused(format!("cannot be read: {e}")))?;
        serde_json::from_str(&text).map_err(|e| refused(format!("is not a declaration: {e}")))
    }

    /// Every difference between the declaration and the VM directory.
    pub fn check(&self, definition: &Definition) -> Problems {
        let mut problems = Problems::default();
        let directory = definition.location.directory();
        let mut differs = |path: &Path, cause: String| problems.error(directory.join(path), cause, REMEDY);
        let is: BTreeSet<_> = definition.network_providers.iter().cloned().collect();
        let provider = |name: &VmName| Path::new("providers/net").join(name.as_str());
        for missing in self.providers.difference(&is) {
            differs(&provider(missing), "was declared, but does not exist".to_owned());
        }
        for unexpected in is.difference(&self.providers) {
            differs(&provider(unexpected), "exists, but was not declared".to_owned());
        }
        for share in &definition.shares {
            match self.shares.get(&share.tag) {
                None => differs(Path::new(&share.entry), "exists, but was not declared".to_owned()),
                Some(Some(source)) if *source != share.source => {
                    differs(
                        Path::new(&share.entry),
                        format!("leads to {}, but {source} was declared", share.source),
                    );
                }
                Some(_) => {}
            }
        }
        for tag in self.shares.keys().filter(|tag| !definition.shares.iter().any(|s| s.tag == **tag)) {
            let entry = Path::new("shared-dirs").join(tag).join("dir");
            differs(&entry, "was declared, but does not exist".to_owned());
        }
        problems
    }
}
