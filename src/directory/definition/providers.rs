// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `providers/net/<vm>`: the VMs that provide this one's networks.

use std::path::Path;

use super::{Directory, MAX_PROVIDERS, Reader};
use crate::base::name::VmName;
use crate::directory::boundary::Entry;

const DIRECTORY: &str = "providers";
const NET: &str = "providers/net";

impl Reader<'_> {
    /// The names of the network providers, sorted. `own` is the VM's own name.
    pub(super) fn providers(&mut self, top: &Directory, own: Option<&VmName>) -> Vec<VmName> {
        if top.get(DIRECTORY).is_none() {
            return Vec::new();
        }
        let Some(directory) = self.directory(top, Path::new(DIRECTORY)) else {
            return Vec::new();
        };
        self.exposure.protect(&directory.place, DIRECTORY);
        self.note_extras(DIRECTORY, &directory.entries, |entry| entry.name == "net");
        if directory.get("net").is_none() {
            return Vec::new();
        }
        let Some(Directory { place, entries }) = self.directory(&directory, Path::new(NET)) else {
            return Vec::new();
        };
        self.exposure.protect(&place, NET);
        if entries.len() > MAX_PROVIDERS {
            self.problems.error(
                self.shown(NET),
                format!("names {} network providers; a VM can have {MAX_PROVIDERS}", entries.len()),
                "remove some",
            );
            return Vec::new();
        }
        let mut providers = Vec::new();
        for Entry { name: entry, .. } in entries {
            let path = self.shown(NET).join(&entry);
            match VmName::new(&entry) {
                Err(error) => self.problems.error(
                    path,
                    format!("is not the name of a VM: {error}"),
                    "name the file after the VM that provides the network",
                ),
                Ok(name) if Some(&name) == own => self.problems.error(
                    path,
                    "the VM would provide its own network",
                    "remove it, or name another VM",
                ),
                Ok(name) => providers.push(name),
            }
        }
        providers
    }
}
