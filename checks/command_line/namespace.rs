// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Mounts that no other process sees, in place of what the tests must not touch.

use std::ffi::OsStr;
use std::process::Command;

use crate::support::program::quiet;
use crate::support::skip::is_root;

fn unshared() -> Command {
    let mut command = quiet("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// That there can be such mounts here.
pub fn mounts() -> Result<(), &'static str> {
    let mut command = unshared();
    let probe = command.args(["mount", "-t", "tmpfs", "none", "/run"]).output();
    let mounted = probe.is_ok_and(|output| output.status.success());
    mounted.then_some(()).ok_or("nothing can be mounted here")
}

/// A call of sh with a script that may mount, and its arguments from `$1` on.
pub fn shell<S: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = unshared();
    command.args(["sh", "-c", script, "sh"]).args(arguments);
    command
}

/// The program and the arguments of a command, for `"$@"` in a script.
pub fn words(command: &Command) -> impl Iterator<Item = &OsStr> {
    std::iter::once(command.get_program()).chain(command.get_args())
}
