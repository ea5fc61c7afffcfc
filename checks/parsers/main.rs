// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Fuzzing of everything that parses: whatever it is given, it does not panic,
//! what it refuses it refuses in printable words, and what it accepts means the
//! same when it is written and read again.
//!
//! | module | what is parsed |
//! |---|---|
//! | [`texts`] | names, ids, addresses, paths; and what makes any text printable |
//! | [`kernels`] | the heads of ELF files, bzImages, arm64 Images, compressed files |
//! | [`contents`] | what `check` reads inside kernels and images |
//! | [`documents`] | manifest, catalog, leases, records, declarations, configuration |
//! | [`records`] | what is read below `/run`, and what `systemctl` prints |
//! | [`streams`] | what QEMU and Cloud Hypervisor say while they run |
//!
//! Inputs are good ones with [`mutation`]s. A seed decides each of them.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MICROVM_SPECTRUM_PARSER_CASES` | inputs of each target; dear ones take a part of them | 2000 |
//! | `MICROVM_SPECTRUM_PARSER_SEED` | the seed of the first input | 0 |
//!
//! On 2026-11-21, all targets were run once with 1,000,000 cases (release build
//! with overflow checks and debug assertions): 17,087,500 inputs, no panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/mod.rs"]
mod support;

mod contents;
mod documents;
mod kernels;
mod mutation;
mod records;
mod streams;
mod texts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use support::random::Random;

/// What a target says of one input: whether it was accepted, or what is wrong
/// with the parser.
type Verdict = Result<bool, String>;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Gives a parser one of `part` of all inputs. Enough of them must be accepted, so
/// that the test does not end at the first byte of each.
fn attack<I: std::fmt::Debug>(
    what: &str,
    part: u64,
    mut input: impl FnMut(&mut Random) -> I,
    mut parse: impl FnMut(&I) -> Verdict,
) {
    let cases = (variable("MICROVM_SPECTRUM_PARSER_CASES", 2000) / part).max(1);
    let first = variable("MICROVM_SPECTRUM_PARSER_SEED", 0);
    let (begun, mut accepted) = (Instant::now(), 0_u64);
    for seed in first..first + cases {
        let given = input(&mut Random(seed));
        let again = || format!("{what}: MICROVM_SPECTRUM_PARSER_SEED={seed} gives it {given:?}");
        match catch_unwind(AssertUnwindSafe(|| parse(&given))) {
            Ok(Ok(was_accepted)) => accepted += u64::from(was_accepted),
            Ok(Err(wrong)) => panic!("{}\n{wrong}", again()),
            Err(_) => panic!("{}\nit panicked", again()),
        }
    }
    println!("{what}: {cases} inputs, {accepted} accepted, {:.1?}", begun.elapsed());
    assert!(cases < 100 || accepted >= cases / 100, "{what}: only {accepted} of {cases} were accepted");
}

/// An error unless the condition holds.
fn ensure(condition: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(wrong()) }
}

/// An error unless the text can be printed as it is, but for line feeds.
fn ensure_printable(text: &str) -> Result<(), String> {
    let raw = |c: char| {
        c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    ensure(!text.contains(raw), || format!("prints raw: {text:?}"))
}
