// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Accounts of the user ids that VMs run as.
//!
//! systemd starts nothing as a user that has no account (217/USER). An account
//! of a leased id is a pair of records in `/run/userdb`, which systemd's name
//! service module reads (`nss-systemd(8)`, `userdbctl(1)`): no file of the
//! distribution is changed, and the same works on NixOS and elsewhere. Format:
//! <https://systemd.io/USER_RECORD>, <https://systemd.io/GROUP_RECORD>.

use std::io;
use std::path::Path;

use serde_json::json;

use crate::base::name::VmId;
use crate::system::durable;

/// Where the records are.
pub const DIRECTORY: &str = "/run/userdb";

/// The account's name: an id says who it is, and is never too long.
pub fn name(uid: u32) -> String {
    format!("microvm-{uid}")
}

/// The records of a VM's user and group: their file names, links and texts.
fn records(id: &VmId, uid: u32) -> [(String, String, String); 2] {
    let name = name(uid);
    let description = format!("VM {} of {}", id.name, id.source);
    let user = json!({
        "userName": name,
        "uid": uid,
        "gid": uid,
        "realName": description,
        "disposition": "system",
        "homeDirectory": "/",
        "shell": "/usr/sbin/nologin",
        "locked": true,
    });
    let group = json!({ "groupName": name, "gid": uid, "description": description, "disposition": "system" });
    [
        (format!("{name}.user"), format!("{uid}.user"), format!("{user}\n")),
        (format!("{name}.group"), format!("{uid}.group"), format!("{group}\n")),
    ]
}

/// Removes the account of a user id from `directory`, if there is one.
///
/// # Errors
/// The system's error.
pub fn remove(directory: &Path, uid: u32) -> io::Result<()> {
    let name = name(uid);
    for file in
        [format!("{uid}.user"), format!("{uid}.group"), format!("{name}.user"), format!("{name}.group")]
    {
        match std::fs::remove_file(directory.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the account of a VM into `directory`, if it is not there yet.
///
/// # Errors
/// The system's error.
pub fn ensure(directory: &Path, id: &VmId, uid: u32) -> io::Result<()> {
    durable::ensure_directory(directory)?;
    for (file, link, text) in records(id, uid) {
        let path = directory.join(&file);
        let link = directory.join(link);
        // Whoever made the one may have been killed before the other.
        if !std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            durable::replace_file_in_memory(&path, &text, 0o644)?;
        }
        if !std::fs::read_link(&link).is_ok_and(|found| found == Path::new(&file)) {
            durable::replace_link_in_memory(&link, Path::new(&file))?;
        }
    }
    Ok(())
}
