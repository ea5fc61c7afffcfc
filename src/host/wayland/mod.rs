// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The windows of VMs: how a VM reaches the compositor of a user's session.
//!
//! Root makes a directory for each VM that starts, which belongs to that user; its group, the VM's,
//! may search it. A service in the user's session binds a socket there and hands it to the compositor, together
//! with the VM's name (`offer`, `contexts`). It takes no part in what passes through the
//! socket, unless the compositor lacks security contexts and the administrator allows that
//! (`relay`).

mod contexts;
mod directory;
mod offer;
mod relay;

pub use directory::{Person, mount_wayland};
pub use offer::{Session, offer_compositor};

pub(super) use directory::remove;
