// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Printing: problems and errors to standard error, results to standard output.
//! Colours are for terminals only.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use serde::Serialize;

use crate::base::printable::{Printable, printable};
use crate::base::problem::{Problem, Problems, Severity, by_cause};
use crate::config::Refused;
use crate::state::catalog::CatalogProblem;
use crate::state::installed::VmError;
use crate::system::control::ControlError;

/// A problem in printable form.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PrintableProblem {
    severity: Severity,
    #[serde(flatten)]
    texts: CatalogProblem,
}

impl PrintableProblem {
    /// A problem of the catalog, which has it in printable form.
    pub fn of_catalog(severity: Severity, texts: CatalogProblem) -> Self {
        Self { severity, texts }
    }

    /// How much it matters.
    pub fn severity(&self) -> Severity {
        self.severity
    }
}

impl From<&Problem> for PrintableProblem {
    fn from(problem: &Problem) -> Self {
        Self::of_catalog(problem.severity, problem.into())
    }
}

/// Writes `problems`, each with path, cause and remedy.
pub(super) fn write(out: &mut impl Write, problems: &[PrintableProblem]) -> io::Result<()> {
    for problem in problems {
        let colour = match problem.severity {
            Severity::Error => AnsiColor::Red,
            Severity::Note => AnsiColor::Blue,
        };
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let PrintableProblem { severity, texts: CatalogProblem { path, cause, remedy } } = problem;
        writeln!(out, "{style}{severity}{style:#}: {path}: {cause}")?;
        writeln!(out, "  help: {remedy}")?;
    }
    Ok(())
}

/// Writes `problems` to standard error, many of one cause as one.
pub(super) fn to_stderr(problems: &[Problem]) {
    let with_others = |(problem, others): (&Problem, usize)| {
        let mut printable = PrintableProblem::from(problem);
        if others > 0 {
            let path = format!("{} and {others} more", printable.texts.path);
            printable.texts.path = Printable::composed(path);
        }
        printable
    };
    let printable: Vec<_> = by_cause(problems).into_iter().map(with_others).collect();
    // A failure cannot be reported anywhere.
    let _ = write(&mut anstream::stderr(), &printable);
}

/// Writes the line to standard error that Pacemaker looks for there when its agent fails.
pub(super) fn exit_reason(reason: &Printable) {
    let _ = writeln!(anstream::stderr(), "ocf-exit-reason:{reason}");
}

/// Writes one line to standard error.
pub(super) fn line(text: &str) {
    let _ = writeln!(anstream::stderr(), "microvm-spectrum: {text}");
}

/// Writes an error to standard error: problems as such, others with their causes.
pub(super) fn error(error: &anyhow::Error) {
    let refused = error.downcast_ref().map(|Refused(problems)| problems);
    if let Some(problems) = error.downcast_ref::<Problems>().or(refused) {
        return to_stderr(&problems.clone().into_sorted());
    }
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return to_stderr(std::slice::from_ref(problem));
    }
    if let Some(VmError::CannotRun(vm)) = error.downcast_ref() {
        let problems = vm.problems().iter().cloned();
        let problems: Vec<_> =
            problems.map(|problem| PrintableProblem::of_catalog(Severity::Error, problem)).collect();
        let _ = write(&mut anstream::stderr(), &problems);
    }
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors name their cause themselves.
        if !text.ends_with(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.extend([colon, &cause]);
        }
    }
    // Each failed VM has lines of its own. A line feed in another error is part of an
    // untrusted name, which must not begin a line.
    let lines = if error.is::<ControlError>() { text.lines().collect() } else { vec![text.as_str()] };
    lines.into_iter().for_each(|text| line(&printable(text)));
}

/// Writes a result to standard output with `write`. A reader that does not want
/// the rest is no error.
///
/// # Errors
/// When standard output cannot be written; `what` is the result.
pub(super) fn to_stdout(
    what: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = anstream::AutoStream::auto(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.with_context(|| format!("{what} cannot be written")),
    }
}
