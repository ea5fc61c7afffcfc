// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A bar for work that takes longer than one wants to look at nothing.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How long it takes before the bar is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A bar on standard error, if that is a terminal.
pub(super) struct Progress {
    what: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar for the work `what`, which begins now.
    pub fn new(what: &'static str) -> Self {
        Self { what, since: Instant::now(), bar: None }
    }

    /// So much is done, of so much.
    pub fn tell(&mut self, done: usize, of: usize) {
        if self.bar.is_none() {
            // NO_COLOR and the like are for colours only.
            if self.since.elapsed() < SHOWN_AFTER || !std::io::stderr().is_terminal() {
                return;
            }
            let bar = ProgressBar::new(of as u64);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
                bar.set_style(style);
            }
            bar.set_message(self.what);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
