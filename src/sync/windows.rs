// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whose session shows the windows of a VM.

use super::candidate::Candidate;
use super::round::Round;
use crate::base::problem::Problem;
use crate::config::CompositorChoice;
use crate::state::catalog::CatalogWayland;
use crate::system::accounts;

impl Round<'_> {
    /// Where a VM shows its windows. Without a session it runs and shows none.
    ///
    /// The administrator alone decides: the owners of files on a partition are what its author
    /// wrote there.
    pub(super) fn windows(&self, vm: &mut Candidate) -> CatalogWayland {
        let without_security_context = vm.settings.wayland == Some(CompositorChoice::WithoutSecurityContext);
        // Only the host that runs it has the user.
        let user = self.host.for_units.then(|| self.session(vm)).flatten();
        CatalogWayland { user, without_security_context }
    }

    fn session(&self, vm: &mut Candidate) -> Option<u32> {
        let (cause, remedy) = match &vm.settings.wayland_user {
            None => (
                "shows its windows in no session: its settings name no user".to_owned(),
                format!("set wayland-user = \"USER\" in [vm.\"{}\"] or for its source", vm.id),
            ),
            Some(name) => match accounts::user_id(name) {
                Ok(Some(user)) => return Some(user),
                Ok(None) => (
                    format!("shows its windows in no session: the host has no user {name}"),
                    "create the user, or correct wayland-user".to_owned(),
                ),
                Err(error) => (
                    format!("shows its windows in no session: the host's accounts cannot be read: {error}"),
                    "sync again when the host knows its users".to_owned(),
                ),
            },
        };
        vm.problems.push(Problem::note(&vm.path, cause, remedy));
        None
    }
}
