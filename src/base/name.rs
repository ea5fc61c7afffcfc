// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The name of a virtual machine.

use std::ffi::OsStr;
use std::fmt;

/// A VM's name: `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`.
///
/// Such a name needs no escaping in a unit name, a Nix store name, a path, or
/// an option of any hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Why a text is not a VM name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a VM name cannot be empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("the name has {0} bytes, a VM name has at most {MAX_NAME_BYTES}")]
    TooLong(usize),
    /// The first character is one that is only allowed later.
    #[error("a VM name cannot begin with '{0}'")]
    First(char),
    /// A character is not allowed anywhere.
    #[error("a VM name cannot contain the character '{0}'")]
    Character(char),
    /// The text is not UTF-8; all its other characters are allowed.
    #[error("a VM name cannot contain bytes that are not UTF-8")]
    NotUtf8,
}

impl VmName {
    /// Checks `text` against the rule.
    ///
    /// # Errors
    /// The first part of the rule that `text` breaks, with the character that breaks it.
    pub fn new(text: impl AsRef<OsStr>) -> Result<Self, NameError> {
        let raw = text.as_ref();
        let Some(name) = raw.to_str() else {
            let lossy = raw.to_string_lossy();
            let bad = lossy.chars().find(|c| !is_later(*c));
            return Err(match bad {
                None | Some(char::REPLACEMENT_CHARACTER) => NameError::NotUtf8,
                Some(c) => NameError::Character(c),
            });
        };
        if let Some(bad) = name.chars().find(|c| !is_later(*c)) {
            return Err(NameError::Character(bad));
        }
        match name.chars().next() {
            None => return Err(NameError::Empty),
            Some(first @ ('.' | '-')) => return Err(NameError::First(first)),
            Some(_) => {}
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(name.len()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_later(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for VmName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for VmName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for VmName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VmName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
        })
    }
}

/// A source's name; the rule is that of VM names.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct SourceName(VmName);

impl SourceName {
    /// Checks `text` against the rule.
    ///
    /// # Errors
    /// See [`VmName::new`].
    pub fn new(text: impl AsRef<OsStr>) -> Result<Self, NameError> {
        VmName::new(text).map(Self)
    }

    /// The name under which VMs are listed whose runner packages the configuration
    /// names. No source can have this name.
    pub fn configuration() -> Self {
        Self(VmName("configuration".to_owned()))
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VM of a source, written `SOURCE/NAME`. Settings and leases belong to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmId {
    /// The source.
    pub source: SourceName,
    /// The VM.
    pub name: VmName,
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.name)
    }
}

impl std::str::FromStr for VmId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (source, name) = text.split_once('/').unwrap_or(("", text));
        Ok(Self { source: SourceName::new(source)?, name: VmName::new(name)? })
    }
}

impl serde::Serialize for VmId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for VmId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn accepts_every_kind_of_allowed_character() {
        let longest = "a".repeat(64);
        for good in ["a", "_", "9", "appvm-lynx", "user.appvm_2", longest.as_str()] {
            assert_eq!(VmName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn says_which_character() {
        assert_eq!(VmName::new(""), Err(NameError::Empty));
        assert_eq!(VmName::new(".hidden"), Err(NameError::First('.')));
        assert_eq!(VmName::new("-rf"), Err(NameError::First('-')));
        assert_eq!(VmName::new("a".repeat(65)), Err(NameError::TooLong(65)));
        for (bad, character) in
            [("a b", ' '), ("a/b", '/'), ("a,b", ','), ("a\n", '\n'), ("a%i", '%'), ("vm:1", ':')]
        {
            assert_eq!(VmName::new(bad), Err(NameError::Character(character)));
        }
        assert_eq!(VmName::new(OsStr::from_bytes(b"a\xff")), Err(NameError::NotUtf8));
    }

    proptest! {
        #[test]
        fn agrees_with_the_rule(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let later = |b: &u8| first(b) || *b == b'.' || *b == b'-';
            let expected = (1..=64).contains(&bytes.len())
                && first(&bytes[0])
                && bytes.iter().all(later);
            prop_assert_eq!(VmName::new(OsStr::from_bytes(&bytes)).is_ok(), expected);
        }
    }
}
