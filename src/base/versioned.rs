// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! JSON documents with a `version` field, which tells which fields they may have.

use std::io;

use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};

/// Why a text is not the document that it should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not the fields of that version.
    #[error("is not {what}: {error}")]
    Syntax {
        /// What it should be, such as `a catalog`.
        what: &'static str,
        /// Where and why.
        error: serde_json::Error,
    },
    /// Another version of this program wrote it.
    #[error("has version {found}, this program reads version {expected}")]
    Version {
        /// The version that it has.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },
}

/// Reads `text` as `what`, a document of version `expected`.
///
/// # Errors
/// See [`DocumentError`]. It reports a wrong version rather than an unknown field.
pub fn parse<T: DeserializeOwned>(text: &str, what: &'static str, expected: u32) -> Result<T, DocumentError> {
    let syntax = |error| DocumentError::Syntax { what, error };
    let mut found = None;
    let read = serde_json::Deserializer::from_str(text).deserialize_map(Version(&mut found));
    match (found, read) {
        (Some(found), _) if found != expected => Err(DocumentError::Version { found, expected }),
        (None, Err(error)) => Err(syntax(error)),
        _ => serde_json::from_str(text).map_err(syntax),
    }
}

/// Finds the version of a document, and reads nothing after it: this program writes it first.
struct Version<'a>(&'a mut Option<u32>);

impl<'de> Visitor<'de> for Version<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object with a version")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(name) = fields.next_key::<String>()? {
            if name == "version" {
                *self.0 = Some(fields.next_value()?);
                return Ok(());
            }
            fields.next_value::<IgnoredAny>()?;
        }
        Err(A::Error::missing_field("version"))
    }
}

/// The text of a document: indented JSON that ends in a line feed.
///
/// # Errors
/// When JSON cannot carry a value, such as a path that is not UTF-8.
pub fn text_of(document: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_version_that_this_program_reads() {
        let parsed = |text: &str| parse::<serde_json::Value>(text, "a list", 2).map_err(|e| e.to_string());
        assert_eq!(parsed(r#"{"version": 2, "x": 1}"#).unwrap()["x"], 1);
        assert_eq!(parsed(r#"{"version": 3}"#), Err("has version 3, this program reads version 2".into()));
        assert!(parsed("{}").unwrap_err().starts_with("is not a list: missing field `version`"));
    }
}
