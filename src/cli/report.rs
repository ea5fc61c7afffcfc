// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Printing problems: errors in red and notes in blue, on terminals only.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::base::problem::{Problem, Severity};
use crate::state::catalog::CatalogProblem;

/// A problem in printable form.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Told {
    severity: Severity,
    path: String,
    cause: String,
    remedy: String,
}

impl Told {
    /// A problem that stands in the catalog, which has it in printable form.
    pub fn of_catalog(severity: Severity, problem: &CatalogProblem) -> Self {
        let CatalogProblem { path, cause, remedy } = problem.clone();
        Self { severity, path, cause, remedy }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }
}

impl From<&Problem> for Told {
    fn from(problem: &Problem) -> Self {
        Self::of_catalog(problem.severity, &CatalogProblem::from(problem))
    }
}

/// Writes `problems`, each with path, cause and remedy.
pub(super) fn write(out: &mut impl Write, problems: &[Told]) -> io::Result<()> {
    for problem in problems {
        let colour = match problem.severity {
            Severity::Error => AnsiColor::Red,
            Severity::Note => AnsiColor::Blue,
        };
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let Told { severity, path, cause, remedy } = problem;
        writeln!(out, "{style}{severity}{style:#}: {path}: {cause}")?;
        writeln!(out, "  help: {remedy}")?;
    }
    Ok(())
}

/// Writes `problems` to standard error.
pub(super) fn to_stderr(problems: &[Problem]) {
    // There is nobody left to tell if this fails.
    let told: Vec<_> = problems.iter().map(Told::from).collect();
    let _ = write(&mut anstream::stderr(), &told);
}

/// Writes one line to standard error.
pub(super) fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "microvm-spectrum: {text}");
}
