// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Colours in a log.
//!
//! A log holds the escapes of terminals in printable form. Those that only choose
//! colours and type, Select Graphic Rendition (ECMA-48, 8.3.117), harm nobody who
//! reads a line; all others stay as they are.

/// The printable form of the Control Sequence Introducer, which begins the sequence.
const INTRODUCER: &str = "\\u{1b}[";
/// Ends all of its effects.
const RESET: &str = "\x1b[0m";

/// A line of a log, with its colours on a `terminal` and without them elsewhere.
pub fn of_line(line: &str, terminal: bool) -> String {
    let mut out = String::with_capacity(line.len());
    let mut coloured = false;
    let (mut rest, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
    while let Some((before, after)) = rest.split_once(INTRODUCER) {
        out.push_str(before);
        let length = after.bytes().position(|b| !is_parameter(b)).unwrap_or(after.len());
        match after.split_at_checked(length).filter(|(_, rest)| rest.starts_with('m')) {
            Some((parameters, after)) => {
                if terminal {
                    out.push_str(&format!("\x1b[{parameters}m"));
                    coloured = true;
                }
                rest = after.strip_prefix('m').unwrap_or(after);
            }
            None => {
                out.push_str(INTRODUCER);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    if coloured {
        out.push_str(RESET);
    }
    out.push_str(end);
    out
}

fn is_parameter(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b';' | b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::of_line;
    use crate::base::printable::StreamFilter;

    #[test]
    fn only_colours_become_escapes() {
        let green = "\\u{1b}[1;32mok\\u{1b}[m done\n";
        assert_eq!(of_line(green, true), "\x1b[1;32mok\x1b[m done\x1b[0m\n");
        assert_eq!(of_line(green, false), "ok done\n");
        for other in ["\\u{1b}[2Jm", "\\u{1b}]0;m", "\\u{1b}[?25m", "\\u{1b}[1", "a\\u{1b}", "plain\n", ""] {
            assert_eq!((of_line(other, true), of_line(other, false)), (other.to_owned(), other.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn a_terminal_gets_no_other_escape(text in "(\\x1b|\\[|m|[0-9;?A-Zl-n]|\r|é|\\\\u\\{1b\\}\\[){0,40}") {
            let line = StreamFilter::default().push(text.as_bytes());
            for piece in of_line(&line, true).split('\x1b').skip(1) {
                let parameters = piece.strip_prefix('[').and_then(|rest| rest.split_once('m')).map(|(p, _)| p);
                prop_assert!(parameters.is_some_and(|p| p.bytes().all(super::is_parameter)));
            }
            prop_assert!(!of_line(&line, false).contains('\x1b'));
        }
    }
}
