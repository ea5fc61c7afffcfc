// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Running another program to its end, and the reason it gave when it failed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use super::poll;

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
    /// It did not end in time, and was killed.
    #[error("{command} did not end in time")]
    TimedOut {
        /// The command.
        command: String,
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
            ProgramError::TimedOut { .. } => io::ErrorKind::TimedOut,
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

/// Like [`run`], with `input` as its standard input. Returns its standard output.
///
/// # Errors
/// See [`run`].
pub fn output(command: &mut Command, input: &str) -> Result<Vec<u8>, ProgramError> {
    execute(command, input, None)
}

/// Like [`run`], for a program that is killed when it still runs at `deadline`.
/// Returns its standard output.
///
/// # Errors
/// See [`run`].
pub fn output_until(command: &mut Command, deadline: Instant) -> Result<Vec<u8>, ProgramError> {
    execute(command, "", Some(deadline))
}

/// Runs a program whose standard input `write` writes.
///
/// # Errors
/// See [`run`]; an error of `write`, unless the program ended before it had read everything.
pub fn feed(command: &mut Command, write: impl FnOnce(ChildStdin) -> io::Result<()>) -> io::Result<()> {
    stream(command.stdin(Stdio::piped()).stdout(Stdio::null()), |child| {
        child.stdin.take().map_or(Ok(()), write)
    })
}

/// Runs a program with this `input`, whose standard output `read` reads.
///
/// # Errors
/// See [`run`]; an error of `read`, unless the program failed.
pub fn drain(
    command: &mut Command,
    input: Stdio,
    read: impl FnOnce(ChildStdout) -> io::Result<()>,
) -> io::Result<()> {
    stream(command.stdin(input).stdout(Stdio::piped()), |child| child.stdout.take().map_or(Ok(()), read))
}

fn stream(command: &mut Command, talk: impl FnOnce(&mut Child) -> io::Result<()>) -> io::Result<()> {
    let stderr = memory_file()?;
    let mut child =
        command.stderr(stderr.try_clone()?).spawn().map_err(|error| not_executed(command, error))?;
    let talked = talk(&mut child);
    let ended_itself = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    if talked.as_ref().is_err_and(|error| !ended_itself(error)) {
        // It need not see the end of what it was given, nor say everything.
        child.kill()?;
        child.wait()?;
        return talked;
    }
    let status = child.wait()?;
    if !status.success() {
        let said = reason(&String::from_utf8_lossy(&contents(stderr)?));
        return Err(ProgramError::Failed { command: shown(command), status, said }.into());
    }
    talked
}

fn execute(command: &mut Command, input: &str, deadline: Option<Instant>) -> Result<Vec<u8>, ProgramError> {
    match wait_for(command, input, deadline) {
        Err(error) => Err(not_executed(command, error)),
        Ok(None) => Err(ProgramError::TimedOut { command: shown(command) }),
        Ok(Some((status, stdout, _))) if status.success() => Ok(stdout),
        Ok(Some((status, _, stderr))) => {
            let said = reason(&String::from_utf8_lossy(&stderr));
            Err(ProgramError::Failed { command: shown(command), status, said })
        }
    }
}

type Ended = (ExitStatus, Vec<u8>, Vec<u8>);

/// Runs a program; returns its status and what it printed, or nothing when it took too long.
fn wait_for(command: &mut Command, input: &str, deadline: Option<Instant>) -> io::Result<Option<Ended>> {
    // Unlike pipes, files are never full, and no process that inherits them keeps them open.
    let (mut stdin, stdout, stderr) = (memory_file()?, memory_file()?, memory_file()?);
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let mut child = command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).spawn()?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if !poll::is_readable(&pidfd, timeout)? {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    Ok(Some((child.wait()?, contents(stdout)?, contents(stderr)?)))
}

fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC)?.into())
}

fn contents(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
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

/// The line that says why a program failed: the last that begins with `error:`, or else
/// the first that is no warning.
fn reason(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().rfind(|line| line.to_ascii_lowercase().starts_with("error:"));
    let first = || lines.clone().find(|line| !line.contains("warning:"));
    error.or_else(first).or_else(|| lines.next()).unwrap_or("it gave no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::Signal;

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
        assert_eq!(output(&mut sh("exec </dev/null"), &"x".repeat(1 << 20)).unwrap(), b"");
    }

    #[test]
    fn leaves_what_a_program_leaves_behind() {
        let soon = Instant::now() + Duration::from_secs(15);
        let left = output_until(&mut sh("sleep 20 & echo $!"), soon).unwrap();
        let left = String::from_utf8(left).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn kills_what_does_not_end() {
        let soon = Instant::now() + Duration::from_millis(50);
        let error = output_until(&mut sh("while :; do :; done"), soon).unwrap_err();
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn says_what_failed_and_why() {
        for (script, said) in [
            ("printf '\\n one\\ntwo\\n' >&2; exit 4", "one"),
            ("echo 'warning: a' >&2; echo 'error: b' >&2; echo 'help' >&2; exit 4", "error: b"),
            ("echo 'qemu: warning: a' >&2; echo 'qemu: b' >&2; exit 4", "qemu: b"),
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
