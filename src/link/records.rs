// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which clients a provider has: records that only root can write.
//!
//! When a client starts, root leaves a record for each of its providers in
//! `/run/microvm-spectrum/links/PROVIDER`; the provider's supervisor plugs in
//! what is recorded and unplugs what is not. So no process of root talks to a
//! VMM, and a provider that comes back finds all its clients' links.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::base::name::VmName;
use crate::link::id::LinkId;
use crate::system::durable;

/// Where the records are.
pub const DIRECTORY: &str = "/run/microvm-spectrum/links";
/// The version of a record.
const VERSION: u32 = 1;

/// One record; the provider goes by its name alone.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    client: VmName,
}

/// What tells a record from one that was written later.
pub type Stamp = (u64, Option<SystemTime>);

/// The directory of a provider's records.
pub fn directory(provider: &VmName) -> PathBuf {
    Path::new(DIRECTORY).join(provider.as_str())
}

/// Makes the directory of a provider's records, so that it can be watched.
///
/// # Errors
/// The system's error.
pub fn prepare(provider: &VmName) -> io::Result<()> {
    durable::ensure_directory(&directory(provider))
}

fn path(provider: &VmName, link: LinkId) -> PathBuf {
    directory(provider).join(format!("{link}.json"))
}

/// The client that a record names.
fn client_of(path: &Path) -> Option<VmName> {
    let text = std::fs::read_to_string(path).ok()?;
    serde_json::from_str::<Record>(&text).ok().map(|record| record.client)
}

/// The client that has a link now, with whatever provider.
///
/// # Errors
/// The system's error.
pub fn holder(link: LinkId) -> io::Result<Option<VmName>> {
    let providers = match std::fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        providers => providers?,
    };
    for provider in providers {
        if let Some(client) = client_of(&provider?.path().join(format!("{link}.json"))) {
            return Ok(Some(client));
        }
    }
    Ok(None)
}

/// Records that a client has a link to a provider, whose tap may be `new`. A
/// record of before is replaced then, so that the provider takes the new one.
///
/// # Errors
/// The system's error.
pub fn record(provider: &VmName, link: LinkId, client: &VmName, new: bool) -> io::Result<()> {
    prepare(provider)?;
    if !new && client_of(&path(provider, link)).as_ref() == Some(client) {
        return Ok(());
    }
    let text = serde_json::to_string(&Record { version: VERSION, client: client.clone() })
        .map_err(io::Error::other)?;
    durable::replace_file(&path(provider, link), &format!("{text}\n"), 0o644)
}

/// Removes that record, if it is there.
///
/// # Errors
/// The system's error.
pub fn remove(provider: &VmName, link: LinkId) -> io::Result<()> {
    match std::fs::remove_file(path(provider, link)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// All records of a provider.
///
/// # Errors
/// The system's error; `NotFound` when there never was one.
pub fn all(provider: &VmName) -> io::Result<BTreeMap<LinkId, Stamp>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory(provider))? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
        if let (Some(id), Ok(metadata)) = (id, entry.metadata()) {
            found.insert(id, (metadata.ino(), metadata.modified().ok()));
        }
    }
    Ok(found)
}
