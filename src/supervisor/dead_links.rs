// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Noticing that a link of this VM has lost one of its taps.
//!
//! A VMM that was taken over can remove its own tap, which it has open, and so can root.
//! Only root can make it again, before the client's next start.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

use super::notify;
use super::output::say;
use crate::link::taps::{self, DEAD_LINK};
use crate::plan::Plan;
use crate::system::process::in_background;

/// How often to look. It reads one file of the kernel's.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Reports each link that dies, once, for as long as this process runs.
///
/// # Errors
/// When there is no thread for it.
pub(super) fn follow(plan: &Plan) -> io::Result<()> {
    let plan = plan.clone();
    in_background(move || report(&plan))
}

fn report(plan: &Plan) {
    let mut dead = BTreeSet::new();
    while dead.len() < plan.interfaces.len() {
        std::thread::sleep(LOOK_INTERVAL);
        for interface in plan.interfaces.iter().filter(|it| !dead.contains(&it.link)).collect::<Vec<_>>() {
            let taps = [interface.link.client_tap(), interface.link.provider_tap()];
            let Some(tap) = taps.iter().find(|tap| !taps::exists(tap)) else { continue };
            dead.insert(interface.link);
            let (name, link, provider) = (&plan.name, interface.link, &interface.provider);
            let text =
                format!("{DEAD_LINK}{link} of {name} to {provider} has lost its tap {tap}: restart {name}");
            say(name, &text);
            notify(&[NotifyState::Status(&text)]);
        }
    }
}
