// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! How soon a source that has changed is scanned again.
//!
//! Its owner may change it all the time, and each scan costs the host. So the scans that
//! a source causes are counted, and after a number of them each waits longer. Scans that
//! another source causes do not wait for it.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{HostError, io_error, rescan};
use crate::base::name::SourceName;
use crate::base::versioned;
use crate::system::durable;

/// Where the counts are, one file for each source.
const DIRECTORY: &str = "/run/microvm-spectrum/scans";
/// The version of such a file.
const VERSION: u32 = 1;
/// The scans in a row that wait for nothing.
const FREE: u32 = 10;
/// How long it takes until one of them is forgotten, in seconds.
const FORGET: u64 = 60;
/// The scans that are counted; the last ones wait for 64 s.
const MOST: u32 = FREE + 7;

/// The scans that a source has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Scans {
    version: u32,
    /// How many are not forgotten.
    count: u32,
    /// When one was forgotten last, in seconds of Unix time.
    since: u64,
}

impl Scans {
    /// The scans at a time after `self`, and how long the next one has to wait.
    fn next(before: Option<Self>, now: u64) -> (Self, Duration) {
        let Scans { count, since, .. } = before.unwrap_or(Self { version: VERSION, count: 0, since: now });
        let forgotten = now.saturating_sub(since) / FORGET;
        let count = count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        // A clock that was set back begins again.
        let since = if count == 0 { now } else { now.min(since.saturating_add(forgotten * FORGET)) };
        let wait = count.checked_sub(FREE).map_or(0, |more| 1 << more.min(MOST - FREE - 1));
        (Self { version: VERSION, count: (count + 1).min(MOST), since }, Duration::from_secs(wait))
    }
}

/// Waits before a source that has changed is scanned again, the longer the more often it
/// has changed; then notes what the scan begins with, for [`rescan`](super::rescan()).
///
/// # Errors
/// When that, or the count of scans, cannot be written.
pub fn pace(source: &SourceName) -> Result<(), HostError> {
    let wait = count(&Path::new(DIRECTORY).join(format!("{source}.json")))
        .map_err(io_error(format!("{DIRECTORY} cannot be written")))?;
    std::thread::sleep(wait);
    rescan::begin(source).map_err(io_error("what is scanned cannot be noted"))
}

fn count(path: &Path) -> io::Result<Duration> {
    let text = std::fs::read_to_string(path).ok();
    let before = text.and_then(|text| versioned::parse(&text, "a count of scans", VERSION).ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let (scans, wait) = Scans::next(before, now);
    durable::ensure_directory(Path::new(DIRECTORY))?;
    durable::replace_file_in_memory(path, &versioned::text_of(&scans)?, 0o644)?;
    Ok(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits of scans that a source causes every `pause` seconds.
    fn waits(before: &mut Option<Scans>, now: &mut u64, pause: u64, count: usize) -> Vec<u64> {
        let mut wait = || {
            let (scans, wait) = Scans::next(*before, *now);
            *before = Some(scans);
            *now += wait.as_secs() + pause;
            wait.as_secs()
        };
        (0..count).map(|_| wait()).collect()
    }

    #[test]
    fn a_source_that_changes_all_the_time_waits_longer_and_longer() {
        let (mut scans, mut now) = (None, 1_000_000);
        let found = waits(&mut scans, &mut now, 0, 20);
        assert_eq!(found[..10], [0; 10]);
        assert_eq!(found[10..16], [1, 2, 4, 8, 16, 32]);
        assert!(found[16..].iter().all(|wait| *wait >= 32), "{found:?}");
        // No more than about one a minute from then on, for as long as it goes on.
        let begin = now;
        waits(&mut scans, &mut now, 0, 1000);
        assert!((30_000..=70_000).contains(&(now - begin)), "{}", now - begin);
        // When it is quiet, that is forgotten.
        now += 20 * 60;
        assert_eq!(waits(&mut scans, &mut now, 0, 10), [0; 10]);
        // One that changes every other minute never waits.
        now += 20 * 60;
        assert!(waits(&mut scans, &mut now, 120, 100).iter().all(|wait| *wait == 0));
    }

    #[test]
    fn a_clock_that_is_set_does_not_matter() {
        let scans = Some(Scans { version: VERSION, count: MOST, since: 1_000_000 });
        let (back, wait) = Scans::next(scans, 5);
        assert_eq!((back.since, wait.as_secs()), (5, 64));
        let (_, wait) = Scans::next(scans, u64::MAX);
        assert_eq!(wait.as_secs(), 0);
    }
}
