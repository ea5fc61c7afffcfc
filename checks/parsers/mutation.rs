// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Inputs made from good ones.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::support::random::Random;

/// Bytes that show what they are when a test fails.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// What means something to some parser, or to a terminal.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\x1b[2J",
    b"\x1b]0;x\x07",
    b"\x7f",
    b"\xc2\x9b2J",
    b"\xe2\x80\xae",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x8f\xbf\xbf",
    b"/",
    b"//",
    b".",
    b"..",
    b"/../",
    b"-",
    b"--",
    b"%",
    b"%i",
    b"\\",
    b"\\\\",
    b"\\x2f",
    b"\\u0000",
    b"\\ud800",
    b"\"",
    b"'",
    b"$(x)",
    b"`x`",
    b";",
    b"=",
    b":",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"4294967296",
    b"18446744073709551616",
    b"\nEvil=1\n",
    b"/nix/store/",
    b"/ext/",
    b"ffff",
    b"0000",
];

/// What can stand in the place of any value.
fn values() -> [Value; 14] {
    [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(65_536),
        json!(70_000),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("/"),
        json!("a\n\u{1b}[2J\u{202e}"),
        json!([]),
        json!({}),
    ]
}

/// Some bytes.
fn noise(random: &mut Random) -> Vec<u8> {
    let length = random.below(20);
    let ascii = random.one_in(2);
    (0..length).map(|_| if ascii { 32 + random.below(95) as u8 } else { random.next() as u8 }).collect()
}

/// One of the good inputs, most often with something wrong.
pub fn bytes<T: AsRef<[u8]>>(random: &mut Random, corpus: &[T]) -> Bytes {
    if random.one_in(16) {
        return Bytes([noise(random), noise(random), noise(random)].concat());
    }
    let mut bytes = corpus[random.index(corpus.len())].as_ref().to_vec();
    for _ in 0..random.below(4) {
        edit(random, &mut bytes, corpus);
    }
    Bytes(bytes)
}

fn edit<T: AsRef<[u8]>>(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[T]) {
    let at = random.index(bytes.len() + 1);
    let end = (at + random.index(12)).min(bytes.len());
    match random.below(9) {
        0 => drop(bytes.splice(at..end, noise(random))),
        1..4 => drop(bytes.splice(at..end.min(at + 2), random.pick(TOKENS).unwrap().iter().copied())),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].repeat(1 + random.index(40));
            drop(bytes.splice(at..at, piece));
        }
        6 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        7 => bytes.truncate(at),
        // The end of another one.
        _ => {
            let other = corpus[random.index(corpus.len())].as_ref();
            bytes.truncate(at);
            bytes.extend(&other[random.index(other.len() + 1)..]);
        }
    }
}

/// Like [`bytes`], where the good inputs are documents: most often it is still one.
pub fn document(random: &mut Random, corpus: &[Value]) -> Value {
    let mut value = corpus[random.index(corpus.len())].clone();
    for _ in 0..random.below(4) {
        let mut places = 0;
        visit(&mut value, &mut |_| {
            places += 1;
            false
        });
        let mut chosen = random.index(places);
        visit(&mut value, &mut |value| {
            if chosen == 0 {
                replace(random, value, corpus);
                return true;
            }
            chosen -= 1;
            false
        });
    }
    value
}

/// A document's text, now and then with something wrong in it.
pub fn text_of(random: &mut Random, document: &Value) -> Bytes {
    let text = serde_json::to_vec(document).unwrap();
    if random.one_in(4) { bytes(random, &[text]) } else { Bytes(text) }
}

/// Shows every value of a document until one is enough.
fn visit(value: &mut Value, enough: &mut impl FnMut(&mut Value) -> bool) -> bool {
    if enough(value) {
        return true;
    }
    match value {
        Value::Array(values) => values.iter_mut().any(|value| visit(value, enough)),
        Value::Object(values) => values.iter_mut().any(|(_, value)| visit(value, enough)),
        _ => false,
    }
}

fn replace(random: &mut Random, value: &mut Value, corpus: &[Value]) {
    match value {
        Value::String(text) if !random.one_in(4) => {
            *text = String::from_utf8_lossy(&bytes(random, &[text.as_bytes()]).0).into_owned();
        }
        Value::Number(number) if !random.one_in(3) => {
            let near = number.as_i64().unwrap_or_default().wrapping_add(random.below(5) as i64 - 2);
            *value = near.into();
        }
        Value::Array(values) if !values.is_empty() && !random.one_in(4) => {
            let at = random.index(values.len());
            match random.below(3) {
                0 => drop(values.remove(at)),
                1 => values.push(values[at].clone()),
                _ => values.swap(0, at),
            }
        }
        Value::Object(values) if !values.is_empty() && !random.one_in(4) => edit_object(random, values),
        _ if random.one_in(8) => *value = corpus[random.index(corpus.len())].clone(),
        _ => *value = values()[random.index(14)].clone(),
    }
}

fn edit_object(random: &mut Random, values: &mut Map<String, Value>) {
    let key = values.keys().nth(random.index(values.len())).unwrap().clone();
    let (new, other) = (noise(random), values.values().nth(random.index(values.len())).unwrap().clone());
    match random.below(4) {
        0 => drop(values.remove(&key)),
        1 => drop(values.insert(String::from_utf8_lossy(&new).into_owned(), other)),
        2 => drop(values.insert(key, other)),
        _ => {
            let renamed = bytes(random, &[key.as_bytes()]).0;
            let value = values.remove(&key).unwrap();
            values.insert(String::from_utf8_lossy(&renamed).into_owned(), value);
        }
    }
}
