// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Short texts: what is accepted is written as it was, and nothing else has its name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use microvm_spectrum::base::name::{SourceName, VmId, VmName};
use microvm_spectrum::base::printable::{StreamFilter, is_printable, printable};
use microvm_spectrum::base::tool::Tool;
use microvm_spectrum::config::PartUuid;
use microvm_spectrum::directory::boundary::AllowedPrefix;
use microvm_spectrum::link::id::LinkId;
use microvm_spectrum::package::identity;
use microvm_spectrum::plan::pci::PciAddress;
use microvm_spectrum::state::nix_store;
use microvm_spectrum::system::systemd;

use crate::mutation::{Bytes, bytes};
use crate::{Verdict, attack, ensure, ensure_printable};

/// Parses what is written as it was read, by `FromStr` and as JSON alike.
fn round_trip<T>(text: &str) -> Verdict
where
    T: FromStr<Err: std::fmt::Display> + ToString + serde::Serialize + serde::de::DeserializeOwned,
{
    let json: Result<T, _> = serde_json::from_value(text.into());
    match text.parse::<T>() {
        Ok(value) => {
            ensure(value.to_string() == text, || format!("is written as {:?}", value.to_string()))?;
            let json = json.map_err(|error| format!("but not as JSON: {error}"))?;
            ensure(serde_json::to_value(json).unwrap() == text, || "JSON changes it".to_owned())?;
            Ok(true)
        }
        Err(error) => {
            ensure(json.is_err(), || format!("only JSON takes it: {error}"))?;
            ensure_printable(&printable(error.to_string()))?;
            Ok(false)
        }
    }
}

fn as_text(given: &Bytes) -> &str {
    std::str::from_utf8(&given.0).unwrap_or_default()
}

#[test]
fn names() {
    let corpus = ["appvm-lynx", "_", "user.appvm_2", "a", "9", &"n".repeat(64), "netvm"];
    attack(
        "VM names",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let is_rule = |(at, b): (usize, &u8)| {
                b.is_ascii_alphanumeric() || *b == b'_' || (at > 0 && matches!(b, b'.' | b'-'))
            };
            let wanted = (1..=64).contains(&given.0.len()) && given.0.iter().enumerate().all(is_rule);
            let found = VmName::new(OsStr::from_bytes(&given.0));
            ensure(found.is_ok() == wanted, || format!("{found:?}"))?;
            ensure(SourceName::new(OsStr::from_bytes(&given.0)).is_ok() == wanted, || {
                "as a source's".to_owned()
            })?;
            ensure(found.map_or(true, |name| name.as_str() == as_text(given)), || "another name".to_owned())?;
            Ok(wanted)
        },
    );
    let corpus = ["user/appvm", "own/_", "a/b", "configuration/nixed"];
    attack("VM ids", 1, |random| bytes(random, &corpus), |given| round_trip::<VmId>(as_text(given)));
}

#[test]
fn ids_and_addresses() {
    attack(
        "link ids",
        1,
        |random| bytes(random, &["a546", "0001", "fffe", "00ff"]),
        |given| {
            let text = as_text(given);
            match text.parse::<LinkId>() {
                Ok(id) => {
                    ensure(id.to_string() == text.to_ascii_lowercase(), || format!("became {id}"))?;
                    ensure(!["0000", "ffff"].contains(&id.to_string().as_str()), || {
                        "is reserved".to_owned()
                    })?;
                    round_trip::<LinkId>(&id.to_string())
                }
                Err(_) => Ok(false),
            }
        },
    );
    let corpus = ["0000:01:00.0", "ffff:ff:1f.7", "0000:00:02.1"];
    attack(
        "PCI addresses",
        1,
        |random| bytes(random, &corpus),
        |given| round_trip::<PciAddress>(as_text(given)),
    );
    let tools = Tool::ALL.map(Tool::as_str);
    attack("tools", 1, |random| bytes(random, &tools), |given| round_trip::<Tool>(as_text(given)));
    let corpus =
        ["6A5B0B3C-1234-4abc-9def-0123456789ab", "1a2b3c4d-01", "00000000-0000-0000-0000-000000000000"];
    attack(
        "PARTUUIDs",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let text = as_text(given).to_owned();
            let Ok(id) = PartUuid::try_from(text.clone()) else { return Ok(false) };
            let written = id.to_string();
            ensure(written == text.to_ascii_lowercase(), || format!("became {id}"))?;
            let plain = written.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
            ensure(plain && PartUuid::try_from(written.clone()) == Ok(id), || format!("became {written:?}"))?;
            Ok(true)
        },
    );
}

#[test]
fn paths() {
    let corpus = ["/usr/img=/srv/img", "/a", "/nix/store=/srv/store", "/a/b/c=/d"];
    attack(
        "allowed prefixes",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let Ok(allowed) = as_text(given).parse::<AllowedPrefix>() else { return Ok(false) };
            for path in [&allowed.prefix, &allowed.directory] {
                let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
                ensure(plain && path.is_absolute(), || format!("{path:?}"))?;
            }
            let again = format!("{}={}", allowed.prefix.display(), allowed.directory.display());
            ensure(again.parse().as_ref() == Ok(&allowed) || given.0.contains(&b'='), || {
                format!("{again} is another")
            })?;
            Ok(true)
        },
    );
    let hash = "74mqa3vg2fsiq6c4w0dmbg5nbpcjh851";
    let corpus = [format!("/nix/store/{hash}-microvm-a/bin/x"), format!("/nix/store/{hash}-microvm-a")];
    attack(
        "store paths",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let path = Path::new(OsStr::from_bytes(&given.0));
            let name = VmName::new("a").unwrap();
            let Some(found) = nix_store::path_of(path) else { return Ok(false) };
            ensure(path.starts_with(&found) && found.components().count() == 4, || format!("{found:?}"))?;
            ensure(nix_store::path_of(&found).as_ref() == Some(&found), || {
                format!("{found:?} is in another")
            })?;
            let base = found.file_name().unwrap();
            if identity::tells_content(base, &name) {
                ensure(base.as_bytes().ends_with(b"-microvm-a"), || format!("{base:?}"))?;
            }
            Ok(true)
        },
    );
    let corpus =
        ["/var/lib/microvms", "/srv/a-b/c", "/", "/srv/.hidden", "/run/microvm-spectrum/partitions/stick"];
    attack(
        "units of paths",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let path = Path::new(OsStr::from_bytes(&given.0));
            let unit = systemd::unit_of_path(path, "mount");
            let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.-\\".contains(&b);
            ensure(unit.bytes().all(plain), || unit.clone())?;
            let names = path.components().filter(|part| matches!(part, Component::Normal(_)));
            let expected = Path::new("/").join(names.collect::<PathBuf>());
            let back = unescape(unit.strip_suffix(".mount").unwrap());
            ensure(back == expected.as_os_str().as_bytes(), || {
                format!("{unit} is {:?}", Bytes(back.clone()))
            })?;
            Ok(true)
        },
    );
}

/// What `systemd-escape --unescape --path` makes of it.
fn unescape(name: &str) -> Vec<u8> {
    let mut path = vec![b'/'];
    let mut rest = if name == "-" { "" } else { name };
    while let Some(first) = rest.chars().next() {
        if let Some(hex) = rest.strip_prefix("\\x") {
            path.push(u8::from_str_radix(&hex[..2], 16).unwrap());
            rest = &hex[2..];
        } else {
            path.push(if first == '-' { b'/' } else { first as u8 });
            rest = &rest[1..];
        }
    }
    path
}

#[test]
fn printable_texts() {
    let corpus = ["plain ü 漢 name", "a\\b", "it's \"x\"", "\u{202e}gmi", "a\u{300}", "\\u{1b}", "\\xff"];
    attack(
        "printable",
        1,
        |random| bytes(random, &corpus),
        |given| {
            let text = printable(OsStr::from_bytes(&given.0));
            ensure_printable(&text)?;
            ensure(!text.contains('\n') && is_printable(&text), || text.clone())?;
            let back = unprintable(&text);
            ensure(back == given.0, || format!("{text:?} is {:?}", Bytes(back.clone())))?;
            Ok(true)
        },
    );
    let corpus = ["one\r\ntwo\n", "ü漢🦀\n", "\x1b[2J", "\r\r\n", "<0>\\\t"];
    attack(
        "a guest's output",
        1,
        |random| (bytes(random, &corpus), random.next()),
        |(given, cuts)| {
            let mut whole = StreamFilter::default();
            let whole = whole.push(&given.0) + &whole.finish();
            ensure_printable(&whole.replace('\t', " "))?;
            let (mut pieces, mut filter, mut rest) =
                (String::new(), StreamFilter::default(), given.0.as_slice());
            for step in 0..64_u32 {
                let length = if cuts.rotate_left(step) & 1 == 0 { 1 } else { 3 };
                let (piece, more) = rest.split_at(rest.len().min(length));
                pieces += &filter.push(piece);
                rest = more;
            }
            pieces += &(filter.push(rest) + &filter.finish());
            ensure(pieces == whole, || format!("{pieces:?} in pieces, {whole:?} as a whole"))?;
            Ok(true)
        },
    );
}

/// The bytes of which this is the printable form.
fn unprintable(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let kind = rest.chars().next().unwrap();
        rest = &rest[1..];
        match kind {
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            'u' => {
                let (digits, after) = rest[1..].split_once('}').unwrap();
                let c = char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap();
                bytes.extend(c.encode_utf8(&mut [0; 4]).bytes());
                rest = after;
            }
            '0' => bytes.push(0),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            other => bytes.push(other as u8),
        }
    }
    bytes
}
