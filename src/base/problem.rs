// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What is wrong with an input or with the host: always a path, a cause and a remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::base::printable::printable;
use crate::base::shortened::shortened;

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The program refuses the input.
    Error,
    /// The program goes on; the user should know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One problem.
///
/// Its texts may quote untrusted names; [`Display`](fmt::Display) writes them in
/// printable form. Each is [short](shortened), however long these names are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, Serialize, Deserialize)]
#[error("{severity}: {}: {}\n  help: {}", printable(.path), printable(.cause), printable(.remedy))]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// Whether it goes away when another VM's problem does; so it comes after those.
    pub follows: bool,
    /// The file or directory that has the problem.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether the host failed, and the input may be right.
    pub of_host: bool,
}

impl Problem {
    /// A problem for which the program refuses the input.
    pub fn error(path: impl Into<PathBuf>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        let short = |text: String| shortened(text.as_ref()).to_string_lossy().into_owned();
        Self {
            severity: Severity::Error,
            follows: false,
            path: shortened(path.into().as_ref()).into_owned().into(),
            cause: short(cause.into()),
            remedy: short(remedy.into()),
            of_host: false,
        }
    }

    /// An error of the host, such as a disk that cannot be read.
    pub fn host(path: impl Into<PathBuf>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { of_host: true, ..Self::error(path, cause, remedy) }
    }

    /// Something that the user should know.
    pub fn note(path: impl Into<PathBuf>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(path, cause, remedy) }
    }
}

/// How many problems of one cause and one remedy are shown one by one.
const FEW_ALIKE: usize = 3;

/// The problems, each with the number of others that it stands for: of many errors that differ in
/// nothing but their paths, and a remark in parentheses at the end of the cause, the first.
pub fn by_cause(problems: &[Problem]) -> Vec<(&Problem, usize)> {
    fn key(it: &Problem) -> (Severity, &str, &str) {
        (it.severity, it.cause.rsplit_once(" (").map_or(&it.cause, |(cause, _)| cause), &it.remedy)
    }
    let mut alike = BTreeMap::<_, usize>::new();
    for problem in problems {
        *alike.entry(key(problem)).or_default() += 1;
    }
    let (mut told, mut shown) = (BTreeSet::new(), Vec::new());
    for problem in problems {
        let number = alike.get(&key(problem)).copied().unwrap_or(1);
        if problem.severity != Severity::Error || number <= FEW_ALIKE {
            shown.push((problem, 0));
        } else if told.insert(key(problem)) {
            shown.push((problem, number - 1));
        }
    }
    shown
}

/// Whether the host is to blame for an error in reading a file, such as a disk that
/// fails, and not a file that is missing, malformed, of another type or another user's.
pub fn is_hosts(error: &io::Error) -> bool {
    const OF_FILES: [Errno; 6] =
        [Errno::NOENT, Errno::NOTDIR, Errno::ISDIR, Errno::INVAL, Errno::LOOP, Errno::ACCESS];
    // Those that are not the system's are of this program, which cannot use the content.
    Errno::from_io_error(error).is_some_and(|error| !OF_FILES.contains(&error))
}

/// All problems of one input, collected instead of stopping at the first.
///
/// An untrusted input decides how many there are, so adding one is cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(BTreeSet<Problem>);

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(BTreeSet::from([problem]))
    }
}

impl Problems {
    /// Adds a problem; a second one that is equal changes nothing.
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

    /// Whether the program must refuse the input.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Whether one of them is an error of the host.
    pub fn has_host_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.of_host)
    }

    /// `found`, if there is no error among the problems.
    ///
    /// # Errors
    /// The problems, notes included.
    pub fn or<T>(self, found: T) -> Result<T, Self> {
        if self.has_errors() { Err(self) } else { Ok(found) }
    }

    /// Keeps the first `most`, errors before notes, and counts the others in a problem of `path`.
    pub fn limit(&mut self, most: usize, path: &Path) {
        // The last one costs no more than the one that would count it.
        if self.0.len() <= most.saturating_add(1) {
            return;
        }
        let Some(first) = self.0.iter().nth(most).cloned() else { return };
        let rest = self.0.split_off(&first);
        let cause = format!("has {} more problems, which are not shown", rest.len());
        let counted = Problem::error(path, cause, "correct the others first");
        let of_host = rest.iter().any(|problem| problem.of_host);
        self.push(Problem { severity: first.severity, of_host, ..counted });
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The problems: errors first, and within each severity in the order of their paths.
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
    }

    #[test]
    fn texts_and_numbers_have_limits() {
        let problem = Problem::error("/p/".to_owned() + &"\u{1}".repeat(4096), "x".repeat(1 << 20), "r");
        assert!(problem.to_string().len() < 1400 && problem.path.starts_with("/p"));
        let mut problems = Problems::default();
        for number in 0..100 {
            problems.note(format!("/n{number}"), "n", "r");
            problems.error(format!("/e{number}"), "e", "r");
        }
        problems.limit(10, Path::new("/vm"));
        assert_eq!(problems.count(), 11);
        assert!(problems.into_sorted().iter().all(|problem| problem.severity == Severity::Error));
        let mut few = Problems::default();
        few.note("/a", "n", "r");
        few.note("/b", "n", "r");
        let all = few.clone();
        few.limit(1, Path::new("/vm"));
        assert_eq!(few, all);
        few.note("/c", "n", "r");
        few.limit(1, Path::new("/vm"));
        let last = few.into_sorted().pop().unwrap();
        assert_eq!(
            last.to_string(),
            "note: /vm: has 2 more problems, which are not shown\n  help: correct the others first"
        );
    }

    #[test]
    fn many_of_one_cause_are_shown_as_one() {
        let mut problems = Problems::default();
        for number in 0..11 {
            problems.error(format!("/vm/{number:02}"), format!("cannot be read (as {number})"), "chmod");
        }
        for number in 0..3 {
            problems.error(format!("/few/{number}"), "e", "r");
        }
        problems.push(Problem { follows: true, ..Problem::error("/a", "needs /vm/00", "r") });
        let sorted = problems.into_sorted();
        let shown: Vec<_> =
            by_cause(&sorted).into_iter().map(|(it, more)| (it.path.to_str().unwrap(), more)).collect();
        assert_eq!(shown, [("/few/0", 0), ("/few/1", 0), ("/few/2", 0), ("/vm/00", 10), ("/a", 0)]);
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
