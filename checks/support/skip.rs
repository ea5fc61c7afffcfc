// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Tests that cannot run everywhere: each is skipped aloud, by its name.

use std::io::Write as _;

/// Evaluates a `Result`: the value of `Ok`, and for `Err(why)` the end of the test,
/// which says on the terminal that it is skipped, and why. A second argument names
/// the part of the test that begins here.
macro_rules! needs {
    ($needed:expr $(, $part:literal)?) => {
        match $needed {
            Ok(value) => value,
            Err(why) => {
                fn here() {}
                let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
                let test = String::from(test) $(+ ", " + $part)?;
                return $crate::support::skip::skipped(&test, why);
            }
        }
    };
}
pub(crate) use needs;

/// Says on the terminal, past Rust's test harness, that something was not tested.
pub fn skipped(what: &str, why: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// That the tests run as root, who alone can do this.
pub fn root(can: &str) -> Result<(), String> {
    if is_root() { Ok(()) } else { Err(format!("only root {can}")) }
}

/// That the tests run as an ordinary user; as root there is this to say.
pub fn ordinary_user(why_not_root: &str) -> Result<(), &str> {
    if is_root() { Err(why_not_root) } else { Ok(()) }
}
