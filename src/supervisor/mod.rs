// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The supervisor: runs one VM from its start to its end.
//!
//! It is the same by hand and in a unit: it starts the VMM as its child, waits
//! until the VMM's control socket answers, notifies systemd when there is one,
//! passes the guest's serial output through, watches the VMM's events, and ends
//! with an [`Outcome`]. On SIGTERM, SIGINT or SIGHUP it presses the guest's
//! power button and, after a time-out or at a second signal, kills the VMM.
//! Whatever it started and every socket are gone when it returns.
//!
//! Every thread does one blocking thing and reports to one loop, in `watch`.

mod claim;
pub mod console;
mod dead_links;
mod files;
mod links;
mod outcome;
mod output;
mod run;
mod shares;
mod shutdown;
pub mod uplink;
pub mod virtiofsd;
mod watch;
mod windows;

use std::io;

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

pub use outcome::Outcome;
pub use output::say_last;
pub use run::{DEFAULT_STOP_TIMEOUT, Options, run};
pub use shares::{Again, Opening, Serving, serve, serve_until_end};
pub use shutdown::{Shutdown, shutdown};

use crate::base::printable::printable;
use crate::system::process::in_background;

/// Tells systemd, when there is one, how a run ended.
pub fn tell_status(outcome: &Outcome) {
    let why = outcome.problems().first().map_or_else(
        || outcome.to_string(),
        |problem| format!("{}: {}", printable(&problem.path), printable(&problem.cause)),
    );
    notify(&[NotifyState::Status(&why)]);
}

/// Notifies systemd, when there is one.
fn notify(state: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

/// Calls `report` from another thread at every signal to stop, until it returns false.
fn on_signal(report: impl Fn() -> bool + Send + 'static) -> Result<(), Outcome> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT])
        .map_err(|error| Outcome::HostFailed(format!("cannot receive signals: {error}")))?;
    let wait = move || {
        signals.forever().take_while(|_| report()).for_each(drop);
    };
    in_background(wait).map_err(no_thread)
}

fn no_thread(error: io::Error) -> Outcome {
    Outcome::HostFailed(format!("cannot start a thread: {error}"))
}
