// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a round finds in the state directory.

use crate::base::problem::Problem;
use crate::state::catalog::{Catalog, CatalogError};
use crate::state::directory::StateDirectory;
use crate::state::leases::Leases;
use crate::state::look::is_missing;
use crate::state::unreadable;

/// What the state directory has before the round.
pub(super) struct Before {
    /// The catalog. One that cannot be used counts as none: the round writes all of it.
    pub catalog: Option<Catalog>,
    /// The leases.
    pub leases: Leases,
}

impl Before {
    /// Reads both.
    pub fn read(state: &StateDirectory) -> Result<Self, Problem> {
        let path = state.catalog();
        let catalog = match Catalog::read(&path) {
            // The catalog may be fine, and its packages in use.
            Err(CatalogError::Io(error)) if !is_missing(&error) => return Err(unreadable(&path)(error)),
            catalog => catalog.ok(),
        };
        Ok(Self { catalog, leases: Leases::read(&state.leases())? })
    }
}
