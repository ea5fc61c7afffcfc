// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Printing problems: errors in red and notes in blue, on terminals only.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use crate::printable::printable;
use crate::problem::{Problem, Severity};

/// Writes `problems`, each with path, cause and remedy.
pub(super) fn write(out: &mut impl Write, problems: &[Problem]) -> io::Result<()> {
    for problem in problems {
        let colour = match problem.severity {
            Severity::Error => AnsiColor::Red,
            Severity::Note => AnsiColor::Blue,
        };
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let Problem { severity, path, cause, remedy } = problem;
        writeln!(out, "{style}{severity}{style:#}: {}: {}", printable(path), printable(cause))?;
        writeln!(out, "  help: {}", printable(remedy))?;
    }
    Ok(())
}

/// Writes `problems` to standard error.
pub(super) fn to_stderr(problems: &[Problem]) {
    // There is nobody left to tell if this fails.
    let _ = write(&mut anstream::stderr(), problems);
}

/// Writes one line to standard error.
pub(super) fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "microvm-spectrum: {text}");
}
