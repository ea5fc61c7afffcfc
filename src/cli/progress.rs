// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A bar for work that takes more than a moment.

use std::cell::RefCell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How long the work takes before the bar appears.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// A bar on standard error, if that is a terminal.
pub(super) struct Progress {
    what: &'static str,
    since: Instant,
    bar: RefCell<Option<ProgressBar>>,
}

impl Progress {
    /// A bar for the work `what`, which begins now.
    pub fn new(what: &'static str) -> Self {
        Self { what, since: Instant::now(), bar: RefCell::default() }
    }

    /// Shows that `done` of `all` is done.
    pub fn show(&self, done: usize, all: usize) {
        let mut bar = self.bar.borrow_mut();
        // Whatever NO_COLOR and the like say: they are for colours only.
        if bar.is_none() && (self.since.elapsed() < SHOWN_AFTER || !std::io::stderr().is_terminal()) {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(all as u64).with_message(self.what);
            match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }

    /// Removes the bar; there is a new one when the work goes on.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }
}
