// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Accounts: those of the user ids that VMs run as, and those of the host.
//!
//! systemd starts no service as a user that has no account (217/USER). The account
//! of a leased id is a pair of records in `/run/userdb`, which systemd's name
//! service module reads (`nss-systemd(8)`, `userdbctl(1)`). So the program changes
//! no file of the distribution, and works alike on NixOS and elsewhere. Format:
//! <https://systemd.io/USER_RECORD>, <https://systemd.io/GROUP_RECORD>.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde_json::json;

use crate::base::name::VmId;
use crate::system::durable;

/// Where the records are.
pub const DIRECTORY: &str = "/run/userdb";

/// The accounts of users that are not VMs (`passwd(5)`).
const USERS: &str = "/etc/passwd";
/// Their groups (`group(5)`).
const GROUPS: &str = "/etc/group";

/// The ids of the users and groups of this host. A VM needs both of one number.
pub fn ids_in_use() -> BTreeSet<u32> {
    [USERS, GROUPS].iter().flat_map(|path| records_in(path).unwrap_or_default()).map(|(_, id)| id).collect()
}

/// The id of the user with this name, if there is one.
///
/// # Errors
/// When `/etc/passwd` cannot be read.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(records_in(USERS)?.into_iter().find(|(found, _)| found == name).map(|(_, id)| id))
}

/// The names and ids in a file of `passwd(5)` or `group(5)`; both have them in the
/// first and the third field.
fn records_in(path: &str) -> io::Result<Vec<(String, u32)>> {
    let bytes = std::fs::read(path)?;
    let record = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(record).collect())
}

/// The name of the account for a leased user id.
pub fn name(uid: u32) -> String {
    format!("microvm-{uid}")
}

/// The records of a VM's user and group: each a file name, a link's name and a text.
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
/// When one of its files exists and cannot be removed.
pub fn remove(directory: &Path, uid: u32) -> io::Result<()> {
    let name = name(uid);
    for file in
        [format!("{uid}.user"), format!("{uid}.group"), format!("{name}.user"), format!("{name}.group")]
    {
        durable::if_present(std::fs::remove_file(directory.join(file)))?;
    }
    Ok(())
}

/// Writes the account of a VM into `directory`, unless it is there already.
///
/// # Errors
/// When `directory` or a file in it cannot be written.
pub fn ensure(directory: &Path, id: &VmId, uid: u32) -> io::Result<()> {
    durable::ensure_directory(directory)?;
    for (file, link, text) in records(id, uid) {
        let path = directory.join(&file);
        let link = directory.join(link);
        // Each on its own: an earlier process may have been killed between them.
        if !std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
            durable::replace_file_in_memory(&path, &text, 0o644)?;
        }
        if !std::fs::read_link(&link).is_ok_and(|found| found == Path::new(&file)) {
            durable::replace_link_in_memory(&link, Path::new(&file))?;
        }
    }
    Ok(())
}
