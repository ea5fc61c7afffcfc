// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whose the files of shared directories are in the guest.

use std::collections::BTreeMap;

use thiserror::Error;

/// A number that is no id of a user or group of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("expected the id of a user or group of the guest, a number from 0 to {}", u32::MAX - 1)]
pub struct GuestIdError;

/// The guest's id of this number; the largest one stands for no user (`chown(2)`).
///
/// # Errors
/// When no user and no group can have it.
pub fn guest_id(number: i64) -> Result<u32, GuestIdError> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or(GuestIdError)
}

/// The guest's user and group that own what the host's owner of a shared directory owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestOwner {
    /// The user's id, if one was chosen.
    pub uid: Option<u32>,
    /// The group's id, if one was chosen.
    pub gid: Option<u32>,
}

/// What was chosen for the shared directories of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestOwners {
    /// For those that have no choice of their own.
    pub of_all: GuestOwner,
    /// By tag.
    pub of_tags: BTreeMap<String, GuestOwner>,
}

impl GuestOwners {
    /// The choice for the shared directory with this tag, or else for all, to be changed.
    pub fn chosen_for(&mut self, tag: Option<String>) -> &mut GuestOwner {
        match tag {
            Some(tag) => self.of_tags.entry(tag).or_default(),
            None => &mut self.of_all,
        }
    }

    /// The ids of the user and the group that own one shared directory: root's where nothing was
    /// chosen.
    pub fn of(&self, tag: &str) -> (u32, u32) {
        let own = self.of_tags.get(tag).copied().unwrap_or_default();
        (own.uid.or(self.of_all.uid).unwrap_or(0), own.gid.or(self.of_all.gid).unwrap_or(0))
    }
}
