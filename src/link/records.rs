// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Which clients a provider has: records that only root can write.
//!
//! When a client starts, root writes a record for each of its providers to
//! `/run/microvm-spectrum/links/PROVIDER`. The provider's supervisor plugs in each
//! recorded link and unplugs the others. So no process of root talks to a VMM, and
//! a provider that restarts finds the links of all its clients.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::base::name::VmName;
use crate::base::problem::is_hosts;
use crate::base::versioned;
use crate::link::id::LinkId;
use crate::system::durable;

/// Where the records are.
pub const DIRECTORY: &str = "/run/microvm-spectrum/links";
/// The version of a record.
const VERSION: u32 = 1;

/// One record. Its file name has the link's id.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    client: VmName,
    /// The id of the user whose the provider's tap is.
    provider_user: Option<u32>,
}

/// Tells a record from a later one of the same name: its inode and its time.
pub type Stamp = (u64, Option<SystemTime>);

/// The directory of a provider's records.
pub fn directory(provider: &VmName) -> PathBuf {
    Path::new(DIRECTORY).join(provider.as_str())
}

/// Creates the directory of a provider's records, so that it can be watched.
///
/// # Errors
/// When it cannot be created.
pub fn prepare(provider: &VmName) -> io::Result<()> {
    durable::ensure_directory(&directory(provider))
}

fn path(provider: &VmName, link: LinkId) -> PathBuf {
    directory(provider).join(file_name(link))
}

fn file_name(link: LinkId) -> String {
    format!("{link}.json")
}

/// What a record says. A record of another form or version counts as none.
///
/// # Errors
/// When the host cannot read it.
fn read(path: &Path) -> io::Result<Option<Record>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if !is_hosts(&error) => return Ok(None),
        text => text?,
    };
    Ok(versioned::parse(&text, "a record of a link", VERSION).ok())
}

/// The id of the user whose the provider's tap of a link is, if there is one and that is known.
pub fn provider_user(provider: &VmName, link: LinkId) -> Option<u32> {
    read(&path(provider, link)).ok()??.provider_user
}

/// The client that has a link now, with any provider.
///
/// # Errors
/// When the directory of the records exists and cannot be listed, or a record cannot be read.
pub fn holder(link: LinkId) -> io::Result<Option<VmName>> {
    for provider in durable::if_present(std::fs::read_dir(DIRECTORY))?.into_iter().flatten() {
        if let Some(record) = read(&provider?.path().join(file_name(link)))? {
            return Ok(Some(record.client));
        }
    }
    Ok(None)
}

/// Records that a client has a link to a provider, with a tap for `provider_user`. A `new` tap
/// replaces an existing record, so that the provider plugs in that tap.
///
/// # Errors
/// When the record cannot be written.
pub fn record(
    provider: &VmName,
    link: LinkId,
    client: &VmName,
    provider_user: u32,
    new: bool,
) -> io::Result<()> {
    prepare(provider)?;
    if !new && read(&path(provider, link)).ok().flatten().is_some_and(|it| it.client == *client) {
        return Ok(());
    }
    let record = Record { version: VERSION, client: client.clone(), provider_user: Some(provider_user) };
    let text = serde_json::to_string(&record).map_err(io::Error::other)?;
    durable::replace_file(&path(provider, link), &format!("{text}\n"), 0o644)
}

/// Removes that record, if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove(provider: &VmName, link: LinkId) -> io::Result<()> {
    durable::if_present(std::fs::remove_file(path(provider, link))).map(drop)
}

/// All records of a provider.
///
/// # Errors
/// When their directory cannot be listed, or one cannot be read; `NotFound` when the
/// directory was never created.
pub fn all(provider: &VmName) -> io::Result<BTreeMap<LinkId, Stamp>> {
    all_in(&directory(provider))
}

fn all_in(directory: &Path) -> io::Result<BTreeMap<LinkId, Stamp>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
        if let (Some(id), Ok(metadata)) = (id, entry.metadata())
            && name.to_str() == Some(&file_name(id))
            && read(&entry.path())?.is_some()
        {
            found.insert(id, (metadata.ino(), metadata.modified().ok()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_name_and_the_version_that_this_program_writes() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        put("e546.json", r#"{"version":1,"client":"a"}"#);
        put("E547.json", r#"{"version":1,"client":"a"}"#);
        put("e548.json", r#"{"version":2,"client":"a"}"#);
        put("e549.json", "");
        put("e54a", r#"{"version":1,"client":"a"}"#);
        std::fs::create_dir(directory.path().join("e54b.json")).unwrap();
        std::fs::write(directory.path().join("e54c.json"), b"\xff").unwrap();
        let found: Vec<_> = all_in(directory.path()).unwrap().keys().map(ToString::to_string).collect();
        assert_eq!(found, ["e546"]);
    }
}
