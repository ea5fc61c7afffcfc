// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A moment, by the clock and since the host booted.

use std::fs::read_to_string;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The kernel's id of a boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The seconds since the host booted, suspended or not.
const UPTIME: &str = "/proc/uptime";
/// How far back the clock may be set, in milliseconds: NTP moves it by less all the time.
const MAX_BACK: i64 = 1_000;
/// How long before it is read a file must have changed last, in nanoseconds: longer than the
/// clock may be set back and a tick of it, 10 ms, together.
const SETTLED: i64 = 2_000_000_000;

/// A moment of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The id of the boot.
    boot: String,
    /// How far the clock was ahead of the time since the boot, in milliseconds.
    ahead: i64,
    /// What the clock showed, in nanoseconds since 1970.
    clock: i64,
}

impl Moment {
    /// This moment; nothing where the kernel does not tell.
    pub fn now() -> Option<Self> {
        let boot = read_to_string(BOOT_ID).ok()?.trim_end().to_owned();
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let uptime: f64 = read_to_string(UPTIME).ok()?.split_whitespace().next()?.parse().ok()?;
        let ahead = i64::try_from(clock.as_millis()).ok()?.checked_sub((uptime * 1_000.0) as i64)?;
        Some(Self { boot, ahead, clock: i64::try_from(clock.as_nanos()).ok()? })
    }

    /// Whether files that have now the times that they had `then` have not changed since.
    pub fn follows(&self, then: &Self) -> bool {
        self.boot == then.boot && self.ahead >= then.ahead.saturating_sub(MAX_BACK)
    }

    /// The same moment, but with the clock furthest ahead of that and of `then`, a moment that
    /// it follows: what is remembered from both counts as read at this one.
    #[must_use]
    pub fn with(self, then: &Self) -> Self {
        Self { ahead: self.ahead.max(then.ahead), ..self }
    }

    /// Whether a file that changed last at this time, and is read from this moment on, will
    /// have another time when it changes.
    pub fn is_settled(&self, changed: i64) -> bool {
        changed < self.clock.saturating_sub(SETTLED)
    }
}

#[cfg(test)]
impl Moment {
    /// A moment that many seconds later, by the clock alone or in truth.
    pub fn later(&self, seconds: i64, clock_alone: bool) -> Self {
        let ahead = if clock_alone { seconds * 1_000 } else { 0 };
        Self {
            boot: self.boot.clone(),
            ahead: self.ahead + ahead,
            clock: self.clock + seconds * 1_000_000_000,
        }
    }

    /// The same moment of another boot.
    pub fn of_another_boot(&self) -> Self {
        Self { boot: "another".to_owned(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_boot_and_no_clock_that_was_set_back_lies_between() {
        let then = Moment::now().unwrap();
        for (now, follows) in [
            (Moment::now().unwrap(), true),
            (then.later(86_400, false), true),
            (then.later(86_400, true), true),
            (then.later(-2, true), false),
            (then.later(-86_400, true), false),
            (then.of_another_boot(), false),
        ] {
            assert_eq!(now.follows(&then), follows, "{now:?} after {then:?}");
        }
        // What was remembered when the clock was ahead counts until the clock is back.
        let ahead = then.later(60, true);
        assert!(ahead.follows(&then) && !then.clone().follows(&ahead));
        assert!(!then.follows(&then.clone().with(&ahead)));
    }

    #[test]
    fn what_changed_just_now_is_not_settled() {
        let now = Moment::now().unwrap();
        assert!(now.is_settled(now.clock - SETTLED - 1));
        for changed in [now.clock - SETTLED, now.clock, now.clock + 1_000 * SETTLED] {
            assert!(!now.is_settled(changed), "{changed}");
        }
    }
}
