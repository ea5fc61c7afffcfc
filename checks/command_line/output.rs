// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Terminals, pipes and what else the output can be.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use crate::support::program::{PROGRAM, build, call, check, quiet, run, run_raw, run_with};
use crate::support::skip::needs;
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

const ESCAPE: char = '\x1b';

fn vm_with_an_error() -> (tempfile::TempDir, VmDirectory) {
    let (guard, root) = workplace();
    (guard, Partition::at(&root).vm("vm").image("root.img", b"").file("wayland", b""))
}

/// What `command` prints on a terminal; `None` where there is no `script(1)`.
fn on_a_terminal(command: &Command) -> Option<(i32, String)> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| shlex::bytes::try_quote(word.as_bytes()).unwrap()).collect();
    let line = words.join(&b' ');
    let mut script = quiet("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(std::ffi::OsStr::from_bytes(&line))
        .arg("/dev/null");
    script.env("SHELL", "/bin/sh").env("TERM", "xterm");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    if quiet("script").arg("--version").output().is_err() {
        return None;
    }
    let ran = run_raw(&mut script, Stdio::piped(), Stdio::piped());
    Some((ran.status, ran.stdout))
}

#[test]
fn colour_on_a_terminal_and_nowhere_else() {
    let (_guard, vm) = vm_with_an_error();
    let plain = run(&mut check(&vm.path)).exits(1).stdout;
    let (status, coloured) = needs!(on_a_terminal(&check(&vm.path)).ok_or("there is no script(1)"));
    assert_eq!(status, 1, "{coloured}");
    assert!(coloured.contains(ESCAPE), "no colour in {coloured:?}");
    let mut without = String::new();
    let mut parts = coloured.split(ESCAPE);
    without.push_str(parts.next().unwrap());
    for part in parts {
        without.push_str(part.split_once('m').unwrap().1);
    }
    assert_eq!(without.replace("\r\n", "\n"), plain);
    // Also what `build` says.
    let (status, coloured) =
        on_a_terminal(&build(&vm.path, &vm.path.join("out"), "cloud-hypervisor")).unwrap();
    assert!(status == 1 && coloured.contains(ESCAPE), "{coloured:?}");

    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (_, plain_here) = on_a_terminal(check(&vm.path).env(name, value)).unwrap();
        assert_eq!(plain_here.replace("\r\n", "\n"), plain, "{name}={value}");
    }
    let (_, json) = on_a_terminal(check(&vm.path).arg("--json")).unwrap();
    assert!(!json.contains(ESCAPE), "{json:?}");
}

#[test]
fn what_a_name_says_is_shown_and_not_done() {
    let (_guard, root) = workplace();
    // The helpers see to it that no control character is printed.
    let hostile = "\u{1b}]0;t\u{7}\u{9b}31m\u{202e}\r\nerror: fake: fake";
    let vm = Partition::at(&root)
        .vm(hostile)
        .image_link("x.img", format!("/{hostile}"))
        .image(hostile, b"")
        .provider(hostile)
        .share(hostile, format!("/{hostile}"))
        .file(hostile, b"");
    let shown = "\\u{1b}]0;t\\u{7}\\u{9b}31m\\u{202e}\\r\\nerror: fake: fake";
    let ran = run(&mut check(&vm.path)).exits(1);
    let problems = ran.problems();
    let (errors, notes) = problems.iter().partition::<Vec<_>, _>(|p| p.severity == "error");
    assert_eq!((errors.len(), notes.len()), (4, 2), "{}", ran.stdout);
    for problem in &problems {
        assert!(problem.text.contains(shown), "{problem:?}");
    }
    assert!(!ran.stdout.contains('\u{202e}'));
    let ran = run(check(&vm.path).arg("--json")).exits(1);
    assert!(!ran.stdout.contains('\u{202e}'));
    let output = root.join(hostile);
    let ran = run(&mut build(&vm.path, &output, "qemu")).exits(1);
    assert!(ran.stderr.contains(shown) && !ran.stderr.contains('\u{202e}'));
    // An output and an argument of that name.
    let good = Partition::at(&root.join("good")).vm("vm").image("root.img", b"");
    let none = root.join("none").join(hostile).join("out");
    run(&mut build(&good.path, &none, "qemu")).exits(3).complains(&[shown]);
    run(&mut build(&good.path, &output, "qemu")).exits(0).says_nothing();
    run(&mut build(&good.path, &output, "qemu")).exits(1).complains(&[shown]);
    run(call(["command"]).arg(root.join("none").join(hostile))).exits(1).complains(&[shown]);
    run(&mut call([hostile])).exits(2);
    run(call(["build", "--tool"]).arg(format!("{hostile}=/x"))).exits(2);
    run(call(["check", "/", "--allow"]).arg(hostile)).exits(2);
}

/// A pipe without a reader.
fn closed_pipe() -> Stdio {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(read);
    write.into()
}

#[test]
fn nobody_reads_the_output() {
    let (_guard, bad) = vm_with_an_error();
    let (_other, root) = workplace();
    let good = Partition::at(&root).vm("good").image("root.img", b"");
    let package = root.join("out");
    run(&mut build(&good.path, &package, "qemu")).exits(0);
    for (mut command, status) in [
        (check(&good.path), 0),
        (check(&bad.path), 1),
        (call(["--help"]), 0),
        (call(["--version"]), 0),
        (call(["command", package.to_str().unwrap()]), 0),
    ] {
        let ran = run_with(&mut command, closed_pipe(), Stdio::piped()).exits(status);
        assert_eq!(ran.stderr, "", "{command:?}");
    }
    let mut json = check(&bad.path);
    let ran = run_with(json.arg("--json"), closed_pipe(), Stdio::piped()).exits(1);
    assert_eq!(ran.stderr, "");
    // The same for standard error.
    for (mut command, status) in [
        (build(&bad.path, &root.join("bad"), "cloud-hypervisor"), 1),
        (call(["nonsense"]), 2),
        (call(["command", "/none"]), 1),
    ] {
        run_with(&mut command, Stdio::piped(), closed_pipe()).exits(status);
    }
    // And when there is no output at all.
    let mut shell = quiet("sh");
    shell.args(["-c", "exec \"$@\" >&- 2>&-", "sh", PROGRAM, "check"]).arg(&bad.path);
    run(&mut shell).exits(1);
}

#[test]
fn a_full_disk_is_no_success() {
    let (_guard, root) = workplace();
    let good = Partition::at(&root).vm("good").image("root.img", b"");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let ran = run_with(&mut check(&good.path), full(), Stdio::piped()).exits(3);
    ran.complains(&["the report cannot be written"]);
    let mut json = check(&good.path);
    run_with(json.arg("--json"), full(), Stdio::piped())
        .exits(3)
        .complains(&["the report cannot be written"]);
    let package = root.join("out");
    run(&mut build(&good.path, &package, "qemu")).exits(0);
    let ran = run_with(call(["command"]).arg(&package), full(), Stdio::piped()).exits(3);
    ran.complains(&["cannot be written"]);
}

#[test]
fn help_and_version() {
    let help = run(&mut call(["--help"])).exits(0);
    for word in ["check", "build", "command", "vm", "Exit status"] {
        assert!(help.stdout.contains(word), "{}", help.stdout);
    }
    assert_eq!(help.stderr, "");
    for verb in [&["check"][..], &["build"], &["command"], &["vm"], &["vm", "run"], &["vm", "shutdown"]] {
        let help = run(call(verb).arg("--help")).exits(0);
        assert!(help.stdout.contains("Usage: microvm-spectrum"), "{}", help.stdout);
    }
    let version = run(&mut call(["--version"])).exits(0);
    assert_eq!(version.stdout, concat!("microvm-spectrum ", env!("CARGO_PKG_VERSION"), "\n"));
}
