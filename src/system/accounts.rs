// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Accounts: those of the user ids that VMs run as, and those of the host.
//!
//! systemd starts no service as a user that has no account (217/USER). The account
//! of a leased id is a pair of records in `/run/userdb`, which systemd's name
//! service module reads (`nss-systemd(8)`, `userdbctl(1)`). So the program changes
//! no file of the distribution, and works alike on NixOS and elsewhere. Format:
//! <https://systemd.io/USER_RECORD>, <https://systemd.io/GROUP_RECORD>.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};
use serde_json::json;

use crate::base::name::VmId;
use crate::system::durable;

/// Where the records are.
pub const DIRECTORY: &str = "/run/userdb";

/// Whether a user or a group of this host has this id, other than the account of a VM. A
/// VM needs both of one number.
///
/// The name service answers (`nsswitch.conf(5)`): it also knows the users of
/// systemd-homed, LDAP and the like.
///
/// # Errors
/// When a service cannot be asked.
pub fn is_in_use(id: u32) -> io::Result<bool> {
    let user = found(User::from_uid(Uid::from_raw(id)))?.map(|user| user.name);
    let group = found(Group::from_gid(Gid::from_raw(id)))?.map(|group| group.name);
    Ok(user.into_iter().chain(group).any(|found| found != name(id)))
}

/// The id of the user with this name, if there is one.
///
/// # Errors
/// When a service cannot be asked.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(found(User::from_name(name))?.map(|user| user.uid.as_raw()))
}

/// Some services have errors of their own for an account that does not exist
/// (`getpwnam(3)`, "Errors").
fn found<T>(asked: nix::Result<Option<T>>) -> io::Result<Option<T>> {
    match asked {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        asked => Ok(asked?),
    }
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
