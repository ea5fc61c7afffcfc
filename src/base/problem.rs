// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is wrong with an input: always with its path, its cause and a remedy.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::printable::printable;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The input cannot be used.
    Error,
    /// Worth knowing; nothing is refused.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Note => "note",
        })
    }
}

/// One problem of an input.
///
/// Its texts may quote untrusted names and are made printable when they are
/// written, by [`Display`](fmt::Display) and in JSON alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file or directory that has the problem.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem for which the input is refused.
    pub fn error(path: impl Into<PathBuf>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, path: path.into(), cause: cause.into(), remedy: remedy.into() }
    }

    /// Something that is worth knowing.
    pub fn note(path: impl Into<PathBuf>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Note, path: path.into(), cause: cause.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, printable(&self.path), printable(&self.cause))?;
        write!(f, "\n  help: {}", printable(&self.remedy))
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Problem", 4)?;
        object.serialize_field("severity", &self.severity)?;
        object.serialize_field("path", &printable(&self.path))?;
        object.serialize_field("cause", &printable(&self.cause))?;
        object.serialize_field("remedy", &printable(&self.remedy))?;
        object.end()
    }
}

/// All problems of one input, collected instead of stopping at the first.
///
/// Somebody else decides how many there are, so one more costs next to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(BTreeSet<Problem>);

impl Problems {
    /// Adds one, unless it is there already.
    pub fn push(&mut self, problem: Problem) {
        self.0.insert(problem);
    }

    /// Adds an error, see [`Problem::error`].
    pub fn error(&mut self, path: impl AsRef<Path>, cause: impl Into<String>, remedy: impl Into<String>) {
        self.push(Problem::error(path.as_ref(), cause, remedy));
    }

    /// Adds a note, see [`Problem::note`].
    pub fn note(&mut self, path: impl AsRef<Path>, cause: impl Into<String>, remedy: impl Into<String>) {
        self.push(Problem::note(path.as_ref(), cause, remedy));
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Problem>) {
        others.into_iter().for_each(|problem| self.push(problem));
    }

    /// How many have this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|p| p.severity == severity).count()
    }

    /// Whether the input must be refused.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The problems, errors first, each severity in order of path.
    pub fn into_sorted(self) -> Vec<Problem> {
        self.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_no_raw_control_character() {
        let problem = Problem::error("/p/a\x1b[2J", "links to 'x\ny'", "remove it");
        assert_eq!(problem.to_string(), "error: /p/a\\u{1b}[2J: links to 'x\\ny'\n  help: remove it");
        let json = serde_json::to_string(&problem).unwrap();
        assert!(json.contains(r"a\\u{1b}[2J"), "{json}");
    }

    #[test]
    fn errors_come_first_and_in_order() {
        let mut problems = Problems::default();
        problems.note("/a", "n", "r");
        problems.error("/c", "e", "r");
        problems.error("/b", "e", "r");
        assert!(problems.has_errors());
        let paths: Vec<_> = problems.into_sorted().into_iter().map(|p| p.path).collect();
        assert_eq!(paths, [Path::new("/b"), Path::new("/c"), Path::new("/a")]);
    }
}
