// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Untrusted text made safe to print.
//!
//! File names, link targets and the output of guests may hold terminal escapes,
//! line breaks, or characters that reorder their line. None of these reaches a
//! terminal, a log or a JSON report raw.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `text` with an escape for each part that is not plainly printable.
///
/// Bytes that are not UTF-8 become `\xNN`, control and invisible characters
/// `\n`, `\u{1b}` and so on, a backslash `\\`; the result is unambiguous.
pub fn printable(text: impl AsRef<OsStr>) -> String {
    let mut out = String::new();
    for chunk in text.as_ref().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            push_char(&mut out, c);
        }
        push_bytes(&mut out, chunk.invalid());
    }
    out
}

/// A text in printable form, which may be printed as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String")]
pub struct Printable(String);

impl Printable {
    /// The printable form of a text, see [`printable`].
    pub fn new(text: impl AsRef<OsStr>) -> Self {
        Self(printable(text))
    }

    /// A text that is composed of printable ones; escaped if one of them is not.
    pub fn composed(text: impl Into<String>) -> Self {
        let text = text.into();
        if is_printable(&text) { Self(text) } else { Self::new(text) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Printable {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if is_printable(&text) { Ok(Self(text)) } else { Err("a text that cannot be printed") }
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text from outside, such as a file name of a VM directory. It can be compared and
/// looked up, but only its [`printable`](Self::printable) form can be displayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(with = "String")]
pub struct Untrusted(String);

impl Untrusted {
    /// The text in printable form.
    pub fn printable(&self) -> Printable {
        Printable::new(&self.0)
    }

    /// The text as it came from outside: not for printing.
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl From<String> for Untrusted {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Whether [`printable`] can have made `text`, so that it can be printed as it is.
pub fn is_printable(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\\' | '\'' | '"') || c.escape_debug().len() == 1)
}

fn push_char(out: &mut String, c: char) {
    match c {
        '\'' | '"' => out.push(c),
        c => out.extend(c.escape_debug()),
    }
}

fn push_bytes(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Makes a stream of a guest's output printable, piece by piece.
///
/// It keeps line feeds and tabs, removes carriage returns, and escapes other unprintable parts like [`printable`], except for backslashes, since
/// a log is for reading. It holds back a character that the end of a piece cuts in
/// two, three bytes at most.
#[derive(Debug, Default)]
pub struct StreamFilter {
    pending: Vec<u8>,
}

impl StreamFilter {
    /// The printable form of the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.pending);
        let mut out = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none();
            push_lines(&mut out, chunk.valid());
            if last && is_cut_short(chunk.invalid()) {
                self.pending.extend_from_slice(chunk.invalid());
            } else {
                push_bytes(&mut out, chunk.invalid());
            }
        }
        out
    }

    /// What it still holds back when the stream ends.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        push_bytes(&mut out, &std::mem::take(&mut self.pending));
        out
    }
}

fn push_lines(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\\' => out.push(c),
            '\r' => {}
            c => push_char(out, c),
        }
    }
}

/// Whether `bytes` can be the beginning of a character.
fn is_cut_short(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_what_a_terminal_or_reader_could_mistake() {
        assert_eq!(printable("plain ü 漢 name"), "plain ü 漢 name");
        assert_eq!(printable("a\x1b[31mb"), "a\\u{1b}[31mb");
        assert_eq!(printable("a\nb\\n"), "a\\nb\\\\n");
        assert_eq!(printable("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(printable("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(printable(OsStr::from_bytes(b"\xff\xfe")), "\\xff\\xfe");
        assert_eq!(printable("it's \"x\""), "it's \"x\"");
    }

    proptest! {
        #[test]
        fn printable_text_is_printable(bytes in prop::collection::vec(any::<u8>(), 0..40), text in ".*") {
            prop_assert!(is_printable(&printable(OsStr::from_bytes(&bytes))));
            prop_assert!(is_printable(&printable(&text)));
            let raw = [text + "\x1b", "\u{202e}".to_owned(), "a\nb".to_owned()];
            prop_assert!(!raw.iter().any(|raw| is_printable(raw)));
        }
    }

    #[test]
    fn stream_keeps_lines_and_joins_cut_characters() {
        let mut filter = StreamFilter::default();
        assert_eq!(filter.push(b"one\r"), "one");
        assert_eq!(filter.push(b"\ntwo\xc3"), "\ntwo");
        assert_eq!(filter.push(b"\xbc\x1b[2J\xff\r!"), "ü\\u{1b}[2J\\xff!");
        assert_eq!(filter.push(b"\xe2\x82"), "");
        assert_eq!(filter.finish(), "\\xe2\\x82");
        assert_eq!(filter.push(b"<0>\\"), "<0>\\");
    }

    proptest! {
        #[test]
        fn stream_is_safe_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..6),
        ) {
            let mut whole = StreamFilter::default();
            let mut expected = whole.push(&bytes);
            expected.push_str(&whole.finish());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut parts = StreamFilter::default();
            let mut got = String::new();
            for pair in cuts.windows(2) {
                got.push_str(&parts.push(&bytes[pair[0]..pair[1]]));
            }
            got.push_str(&parts.finish());
            prop_assert_eq!(&got, &expected);
            prop_assert!(got.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
            let printed = printable(OsStr::from_bytes(&bytes));
            prop_assert!(!printed.chars().any(char::is_control));
        }
    }
}
