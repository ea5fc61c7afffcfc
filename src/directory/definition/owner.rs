// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Who may share a directory: its owner and root.
//!
//! virtiofsd runs as the directory's owner. Were every link obeyed, a user who can
//! write VM directories could have it open another user's private directories.

use std::path::Path;

use crate::base::problem::Problem;
use crate::directory::boundary::{Followed, Resolved};

/// Whether it matters who made the links to `found`: a directory of root's is free to all, since
/// virtiofsd serves it with the rights of the user nobody.
pub fn matters(found: &Resolved) -> bool {
    found.stat.st_uid != 0
}

/// Checks that the directory's owner or root made every link that leads to `found`, the
/// directory of the share shown as `shown`, if that [matters].
///
/// # Errors
/// When another user made one of the links.
pub fn check_links(shown: &Path, found: &Resolved) -> Result<(), Problem> {
    let owner = found.stat.st_uid;
    let mut others = found.links.iter().map(Followed::owner).filter(|by| ![0, owner].contains(by));
    let Some(other) = others.next().filter(|_| matters(found)) else { return Ok(()) };
    Err(Problem::error(
        shown,
        format!("leads to a directory of user {owner} by a link of user {other}"),
        "share a directory of your own, or let the directory's owner or root make the link",
    ))
}
