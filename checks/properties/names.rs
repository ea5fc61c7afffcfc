// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Hostile names: what may be in a directory that an attacker wrote.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use proptest::prelude::*;
use proptest::sample::select;

/// The longest name that Linux' file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The name of a file: any bytes but `/` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Vec<u8>);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl Name {
    /// The bytes as a name, with what no name can hold replaced.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let mut bytes: Vec<u8> = bytes.into();
        bytes.truncate(MAX_NAME_BYTES);
        for byte in &mut bytes {
            match *byte {
                b'/' => *byte = b'_',
                0 => *byte = 1,
                _ => {}
            }
        }
        if [&b""[..], b".", b".."].contains(&bytes.as_slice()) {
            bytes.push(b'_');
        }
        Self(bytes)
    }

    /// The name with `suffix`, cut so that it fits.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        let mut bytes = self.0.clone();
        bytes.truncate(MAX_NAME_BYTES - suffix.len());
        bytes.extend(suffix.bytes());
        Self::new(bytes)
    }

    /// The name after `number-`, so that it is the only one of its kind.
    pub fn numbered(&self, number: usize) -> Self {
        Self::new([format!("{number}-").as_bytes(), self.bytes()].concat())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn os(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// Text that means something to an option parser, a shell, a unit file, a
/// terminal or a reader.
const TEXTS: &[&str] = &[
    "on",
    "off",
    ",readonly=off",
    ",read-only=off,",
    ",image_type=qcow2",
    "\",readonly=off,path=\"",
    "\"readonly=off\"",
    "{\"driver\":\"null-co\"}",
    "\",\"read-only\":false,\"x\":\"",
    "\"},\"read-only\":false,\"file\":{\"driver\":\"file",
    "json:{\"driver\":\"null-co\"}",
    "-rf",
    "--help",
    "--",
    "-",
    "...",
    "..a",
    "file:",
    "nbd:localhost:10809",
    "nbd+unix:",
    "fat:rw:",
    "http:",
    "fdset",
    "fd=3",
    "path=",
    "tag=a,socket=b",
    "\"",
    "\"\"",
    "\"\"\"",
    "a\"b",
    "\"a",
    "a\"",
    "'",
    "'\\''",
    "[",
    "]",
    "[]",
    "][",
    "[,",
    "=",
    "==",
    ",",
    ",,",
    "=,",
    " ",
    "  a  ",
    "\t",
    "\n",
    "a\nb",
    "\r\n",
    "\u{b}\u{c}",
    "\\",
    "\\\\",
    "\\n",
    "\\\"",
    "\\u0041",
    "\\x41",
    "%",
    "%%",
    "%s%n",
    "%i%h",
    "$(reboot)",
    "${HOME}",
    "`id`",
    "a;b|c&d",
    "*?[a-z]",
    "~",
    "#",
    "!",
    "<3>emergency",
    "\u{1b}[2J",
    "\u{1b}]0;title\u{7}",
    "\u{7f}",
    "\u{1}\u{8}",
    "\u{85}",
    "\u{9b}2J",
    "\u{a0}",
    "\u{200b}",
    "\u{202e}gmi",
    "\u{2028}",
    "\u{feff}",
    "\u{fffd}",
    "\u{e000}",
    "\u{10fffd}",
    "e\u{301}",
    "ü",
    "漢字",
    "🦀",
    "dir",
    "vmlinux",
    "svc",
    "data",
    ".img",
    ".img.img",
    "blk",
    "console",
    "serial",
    "disk0",
];

/// What no hypervisor can be told: not UTF-8, or a noncharacter of Unicode.
const UNUSABLE: &[&[u8]] = &[
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf0\x9f\xa6",
    b"\xf5\x80\x80\x80",
    b"\xef\xb7\x90",
    b"\xef\xb7\xaf",
    b"\xef\xbf\xbe",
    b"\xef\xbf\xbf",
    b"\xf0\x9f\xbf\xbe",
    b"\xf4\x8f\xbf\xbf",
];

fn harmless() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(b'-'), Just(b'.'), b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9'], 1..9)
}

fn text() -> BoxedStrategy<Vec<u8>> {
    let pieces = || select(TEXTS).prop_map(|text| text.as_bytes().to_vec());
    prop_oneof![
        3 => pieces(),
        4 => prop::collection::vec(select(TEXTS), 2..6).prop_map(|texts| texts.concat().into_bytes()),
        2 => prop::collection::vec(any::<char>(), 1..10).prop_map(|chars| String::from_iter(chars).into_bytes()),
        1 => prop::collection::vec(1_u8..0x80, 1..20),
        1 => select(TEXTS).prop_map(|text| {
            let times = MAX_NAME_BYTES / text.len();
            let mut long = text.repeat(times).into_bytes();
            long.resize(MAX_NAME_BYTES, b'x');
            long
        }),
        2 => harmless(),
    ]
    .boxed()
}

/// Any name: nearly always one that can be used, however hostile.
pub fn name() -> BoxedStrategy<Name> {
    prop_oneof![
        60 => text(),
        1 => (text(), select(UNUSABLE), text()).prop_map(|(a, b, c)| [&a[..], b, &c].concat()),
        1 => prop::collection::vec(any::<u8>(), 1..24),
    ]
    .prop_map(Name::new)
    .boxed()
}

/// A name for an image: nearly always with the suffix that makes it one.
pub fn image_name() -> BoxedStrategy<Name> {
    (name(), prop::bool::weighted(0.95))
        .prop_map(|(name, image)| if image { name.with_suffix(".img") } else { name })
        .boxed()
}

/// A name for a shared directory: mostly short enough for a tag.
pub fn tag() -> BoxedStrategy<Name> {
    let cut = |(name, short): (Name, bool)| {
        let mut bytes = name.bytes().to_vec();
        while short && bytes.len() > 36 {
            // By whole characters where there are such.
            let text = String::from_utf8_lossy(&bytes);
            let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= 36).last();
            bytes.truncate(cut.unwrap_or(36).clamp(1, 36));
        }
        Name::new(bytes)
    };
    (name(), prop::bool::weighted(0.9)).prop_map(cut).boxed()
}

/// A name for a VM: mostly one that is allowed.
pub fn vm_name() -> BoxedStrategy<Name> {
    let allowed = prop_oneof![
        8 => harmless().prop_map(|mut name| {
            if matches!(name.first(), Some(b'-' | b'.')) {
                name[0] = b'_';
            }
            name
        }),
        1 => Just(vec![b'n'; 64]),
    ];
    prop_oneof![
        40 => allowed,
        1 => Just(vec![b'n'; 65]),
        1 => name().prop_map(|name| name.bytes().to_vec()),
    ]
    .prop_map(Name::new)
    .boxed()
}

/// Whether a name or path can be given to every hypervisor: UTF-8 without the
/// 66 code points that Unicode calls noncharacters.
pub fn is_usable(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        text.chars().map(u32::from).all(|c| {
            let last_two_of_a_plane = matches!(c % 0x1_0000, 0xfffe | 0xffff);
            !last_two_of_a_plane && !(0xfdd0..0xfdf0).contains(&c)
        })
    })
}

/// Whether [a VM directory](../../docs/vm-directory.md) may have the name.
pub fn is_vm_name(bytes: &[u8]) -> bool {
    let inner = |b: &u8| matches!(b, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    (1..=64).contains(&bytes.len()) && bytes.iter().all(inner) && !matches!(bytes[0], b'.' | b'-')
}
