// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Long text made short: who chooses a text does not choose what it costs to keep and print it.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// The longest text that is kept, in bytes of its [printable](super::printable) form.
pub const MAX_TEXT_BYTES: usize = 640;

/// What is in the place of the middle.
const ELLIPSIS: &str = "…";
/// How much of each end is kept.
const END_BYTES: usize = (MAX_TEXT_BYTES - ELLIPSIS.len()) / 2;

/// `text`, without its middle if its printable form has more than [`MAX_TEXT_BYTES`].
///
/// The result of text that is UTF-8 is UTF-8.
pub fn shortened(text: &OsStr) -> Cow<'_, OsStr> {
    let bytes = text.as_bytes();
    let fits = || parts(bytes).map(|(_, cost)| cost).sum::<usize>() <= MAX_TEXT_BYTES;
    if bytes.len() <= MAX_TEXT_BYTES && fits() {
        return Cow::Borrowed(text);
    }
    let mut short = first(bytes).to_vec();
    short.extend_from_slice(ELLIPSIS.as_bytes());
    short.extend_from_slice(last(bytes));
    Cow::Owned(OsString::from_vec(short))
}

/// The characters of a text, and its bytes that belong to none: the length of each, and
/// that of its printable form.
fn parts(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let printable = |c: char| match c {
            '\'' | '"' => 1,
            c => c.escape_debug().map(char::len_utf8).sum(),
        };
        let characters = chunk.valid().chars().map(move |c| (c.len_utf8(), printable(c)));
        characters.chain(chunk.invalid().iter().map(|_| (1, r"\xff".len())))
    })
}

/// The beginning of a text that is to be kept.
fn first(bytes: &[u8]) -> &[u8] {
    let (mut end, mut cost) = (0, 0);
    // Three more bytes, so that no character is cut that counts.
    for (length, more) in parts(bytes.get(..END_BYTES + 3).unwrap_or(bytes)) {
        cost += more;
        if cost > END_BYTES {
            break;
        }
        end += length;
    }
    bytes.get(..end).unwrap_or_default()
}

/// The end of a text that is to be kept.
fn last(bytes: &[u8]) -> &[u8] {
    let from = bytes.len().saturating_sub(END_BYTES);
    let is_inside = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    // A character has four bytes at most.
    let mut from = (from..from + 3).find(|at| !is_inside(at)).unwrap_or(from);
    let tail = bytes.get(from..).unwrap_or_default();
    let mut cost: usize = parts(tail).map(|(_, cost)| cost).sum();
    for (length, less) in parts(tail) {
        if cost <= END_BYTES {
            break;
        }
        cost -= less;
        from += length;
    }
    bytes.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::printable::printable;
    use proptest::prelude::*;

    #[test]
    fn the_middle_is_left_out() {
        let short = "a".repeat(MAX_TEXT_BYTES);
        assert_eq!(shortened(OsStr::new(&short)), OsStr::new(&short));
        let long = format!("begin{}end", "ü".repeat(4096));
        let found = shortened(OsStr::new(&long)).into_owned().into_string().unwrap();
        assert!(found.starts_with("beginü") && found.contains("ü…ü") && found.ends_with("üend"), "{found}");
        // Few bytes may be many when they are printed.
        let escapes = "\u{1}".repeat(200);
        assert!(printable(shortened(OsStr::new(&escapes))).len() <= MAX_TEXT_BYTES);
    }

    proptest! {
        #[test]
        fn it_is_never_longer_and_stays_text(
            text in "(\u{1}|[a-z]|ü|漢|🦀|\\PC|\u{202e}){0,900}",
            bytes in prop::collection::vec(any::<u8>(), 0..900),
        ) {
            let short = shortened(OsStr::new(&text)).into_owned();
            prop_assert!(printable(&short).len() <= MAX_TEXT_BYTES);
            prop_assert!(short.to_str().is_some());
            let whole = printable(&text).len() <= MAX_TEXT_BYTES;
            prop_assert_eq!(short == OsStr::new(&text), whole);
            let bytes = OsStr::from_bytes(&bytes);
            prop_assert!(printable(shortened(bytes)).len() <= MAX_TEXT_BYTES);
        }
    }
}
