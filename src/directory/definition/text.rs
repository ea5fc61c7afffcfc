// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Names and paths that every hypervisor accepts.

use std::ffi::OsStr;

/// The text of a name or path, or why no VM can use it.
///
/// It must be UTF-8, since the manifest and QEMU's options are JSON, and free of
/// Unicode's noncharacters, which QEMU's JSON parser refuses (`mod_utf8_codepoint` in its `util/unicode.c`).
pub(super) fn usable(text: &OsStr) -> Result<&str, String> {
    let Some(text) = text.to_str() else {
        return Err("is not UTF-8".to_owned());
    };
    match text.chars().find(|c| is_noncharacter(*c)) {
        Some(c) => Err(format!("contains U+{:04X}, which Unicode reserves for internal use", u32::from(c))),
        None => Ok(text),
    }
}

fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

/// What to do about a text that is not [`usable`].
pub(super) const REMEDY: &str = "rename it, using UTF-8 text";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn takes_all_text_but_noncharacters() {
        for good in ["", "ü漢🦀", "a b,c=d[e]\"f\\%\n\u{1b}\u{7f}", "\u{fffd}\u{feff}"] {
            assert_eq!(usable(OsStr::new(good)), Ok(good));
        }
        assert!(usable(OsStr::from_bytes(b"\xff")).is_err());
        assert!(usable(OsStr::from_bytes(b"\xed\xa0\x80")).is_err());
        for bad in ["\u{fdd0}", "\u{fffe}", "\u{1ffff}", "\u{10fffe}"] {
            assert!(usable(OsStr::new(bad)).is_err(), "{bad:?}");
        }
    }
}
