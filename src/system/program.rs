// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Running another program to its end, and what it said when it failed.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};

/// Why a program did not do what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It does not run.
    #[error("{command} cannot be executed: {error}")]
    NotExecuted {
        /// The command.
        command: String,
        /// The system's error.
        error: io::Error,
    },
    /// It failed.
    #[error("{command} ended with {status}: {said}")]
    Failed {
        /// The command.
        command: String,
        /// Its exit status, or the signal that ended it.
        status: ExitStatus,
        /// The line of its standard error that says why.
        said: String,
    },
}

impl From<ProgramError> for io::Error {
    fn from(error: ProgramError) -> Self {
        let kind = match &error {
            ProgramError::NotExecuted { error, .. } => error.kind(),
            ProgramError::Failed { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Runs a program to its end.
///
/// # Errors
/// When it cannot be executed, and when its status is not 0.
pub fn run(command: &mut Command) -> Result<(), ProgramError> {
    output(command, "").map(drop)
}

/// Like [`run`], with `input` as its standard input; at most 64 KiB, what a pipe
/// holds. Returns its standard output.
///
/// # Errors
/// See [`run`].
pub fn output(command: &mut Command, input: &str) -> Result<Vec<u8>, ProgramError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_executed(command, error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read says more by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| not_executed(command, error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = reason(&String::from_utf8_lossy(&output.stderr));
    Err(ProgramError::Failed { command: shown(command), status: output.status, said })
}

/// Has this process become a program; returns only when that fails.
pub fn become_program(command: &mut Command) -> ProgramError {
    let error = command.exec();
    not_executed(command, error)
}

fn not_executed(command: &Command, error: io::Error) -> ProgramError {
    ProgramError::NotExecuted { command: shown(command), error }
}

/// The words of a command, without the names after `--`, which can be very many.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.take_while(|word| *word != "--").map(|word| word.to_string_lossy());
    words.collect::<Vec<_>>().join(" ")
}

/// The line that says why a program failed: the last that begins with `error:`,
/// before which Nix puts warnings, or else the first.
fn reason(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.starts_with("error:"));
    error.or_else(|| lines.next()).unwrap_or("it gave no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn passes_input_and_output() {
        assert_eq!(output(&mut sh("cat; echo there"), "here\n").unwrap(), b"here\nthere\n");
        // It need not read what it is given.
        assert_eq!(output(&mut sh("exec </dev/null"), &"x".repeat(1 << 16)).unwrap(), b"");
    }

    #[test]
    fn says_what_failed_and_why() {
        for (script, said) in [
            ("printf '\\n one\\ntwo\\n' >&2; exit 4", "one"),
            ("echo 'warning: a' >&2; echo 'error: b' >&2; echo 'help' >&2; exit 4", "error: b"),
            ("exit 4", "it gave no reason"),
        ] {
            let told = run(sh(script).args(["word", "--", "name"])).unwrap_err().to_string();
            assert_eq!(told, format!("/bin/sh -c {script} word ended with exit status: 4: {said}"));
        }
        let error = run(&mut Command::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent cannot be executed: "), "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotFound);
    }
}
