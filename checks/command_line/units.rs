// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `units`: where unit files go, and which paths cannot be in them. Their
//! text is compared in `checks/golden`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{PROGRAM, call, quiet, run};
use crate::support::tree::{self, Node, assert_same};
use crate::support::vm_directory::workplace;

fn units(output: &Path, arguments: &[&str]) -> Command {
    let mut command = call(["units", "--output"]);
    command.arg(output).args(arguments);
    command
}

/// The texts of all files beneath a directory.
fn texts(directory: &Path) -> Vec<(PathBuf, String)> {
    let files = tree::read(directory).into_iter().filter_map(|(path, node)| match node {
        Node::File { content, .. } => Some((path, String::from_utf8(content).unwrap())),
        _ => None,
    });
    files.collect()
}

#[test]
fn nothing_is_left_of_the_templates() {
    let (_guard, root) = workplace();
    let output = root.join("lib");
    run(&mut units(&output, &["--program", "/opt/the-program", "--state-dir", "/srv/the-state"]))
        .exits(0)
        .says_nothing();
    let texts = texts(&output);
    assert!(texts.len() >= 10, "{texts:?}");
    for (path, text) in &texts {
        let name = path.display();
        assert!(!text.contains("{{") && !text.contains("}}"), "{name}:\n{text}");
        assert!(text.len() > 40 && text.ends_with('\n') && !text.ends_with("\n\n"), "{name}:\n{text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{name}");
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(odd, None, "{name}");
        // Only these two places, and no others of this or any host.
        for default in ["/usr/local", "/var/lib/microvms", env!("CARGO_MANIFEST_DIR"), PROGRAM] {
            assert!(!text.contains(default), "{name} has {default}");
        }
    }
    let all: String = texts.iter().map(|(_, text)| text.as_str()).collect();
    for place in [
        "ExecStart=/opt/the-program host --state-dir /srv/the-state run %i\n",
        "ExecStart=/opt/the-program sync --start --state-dir /srv/the-state\n",
        "exec /opt/the-program host --state-dir /srv/the-state generate \"$@\"\n",
        "ConditionPathExists=/srv/the-state/%i/current/bin/microvm-run\n",
        "ReadWritePaths=-/srv/the-state /run -/nix\n",
        "d /srv/the-state 0755 root root -\n",
    ] {
        assert!(all.contains(place), "{place}");
    }
}

#[test]
fn what_nobody_says_is_where_the_program_is() {
    let (_guard, root) = workplace();
    let output = root.join("lib");
    run(&mut units(&output, &[])).exits(0).says_nothing();
    let unit = fs::read_to_string(output.join("systemd/system/microvm@.service")).unwrap();
    let expected = format!("ExecStart={PROGRAM} host --state-dir /var/lib/microvms run %i\n");
    assert!(unit.contains(&expected), "{unit}");
    // A relative path is one of the working directory.
    let mut command = units(&output, &["--program", "bin/program", "--state-dir", "state"]);
    run(command.current_dir(&root)).exits(0).says_nothing();
    let unit = fs::read_to_string(output.join("systemd/system/microvm@.service")).unwrap();
    let root = root.display();
    assert!(unit.contains(&format!("ExecStart={root}/bin/program host --state-dir {root}/state run %i\n")));
}

#[test]
fn paths_that_systemd_would_interpret() {
    let (_guard, root) = workplace();
    let output = root.join("lib");
    for bad in [
        "/a b",
        "/a%i",
        "/%n",
        "/a$b",
        "/${A}",
        "/a\nExecStart=/bin/sh",
        "/a\"b",
        "/a'b",
        "/a\\x20b",
        "/a;b",
        "/a#b",
        "/a\tb",
        "/ü",
        "/a*",
        "/a?",
        "/a[b]",
        "/a{{b}}",
        "/a|b",
        "/a&b",
        "/a/../b",
        "/..",
        "/a~b",
        "/a!b",
        "/a\u{1b}[31m",
        "/a\u{202e}b",
    ] {
        for arguments in [["--program", bad], ["--state-dir", bad]] {
            let ran = run(&mut units(&output, &arguments)).exits(2);
            ran.complains(&["cannot be part of a unit file: use an absolute path without .., of letters"]);
            assert!(!output.exists(), "{bad:?}");
        }
    }
    for arguments in [["--program", ""], ["--state-dir", ""]] {
        run(&mut units(&output, &arguments)).exits(2);
    }
    for good in ["/nix/store/0z-microvm+spectrum=1.2_3,a:b@c/bin/program", "/a/-b", "/@a", "/a=b"] {
        run(&mut units(&output, &["--program", good, "--state-dir", good])).exits(0).says_nothing();
        let unit = fs::read_to_string(output.join("systemd/system/microvm@.service")).unwrap();
        assert!(unit.contains(&format!("ExecStart={good} host --state-dir {good} run %i\n")), "{unit}");
    }
}

#[test]
fn files_that_are_there_are_replaced_and_others_left() {
    let (_guard, root) = workplace();
    let output = root.join("lib");
    let write = |umask: &str| {
        let mut shell = quiet("/bin/sh");
        shell.args(["-c", "umask \"$1\" && shift && exec \"$@\"", "sh", umask, PROGRAM, "units", "--output"]);
        run(shell.arg(&output)).exits(0).says_nothing();
    };
    write("077");
    let first = tree::read(&output);
    for (path, node) in &first {
        match node {
            Node::Directory { mode } => assert_eq!(*mode, 0o755, "{}", path.display()),
            Node::File { mode, .. }
                if path.starts_with("systemd/system-generators") || path.starts_with("ocf") =>
            {
                assert_eq!(*mode, 0o755)
            }
            Node::File { mode, .. } => assert_eq!(*mode, 0o644, "{}", path.display()),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    let other = output.join("systemd/system/other.service");
    fs::write(&other, "precious").unwrap();
    let unit = output.join("systemd/system/microvm@.service");
    fs::remove_file(&unit).unwrap();
    // A link is replaced, and what it leads to is left.
    std::os::unix::fs::symlink(&other, &unit).unwrap();
    fs::write(output.join("sysusers.d/microvm-spectrum.conf"), "old").unwrap();
    write("000");
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    fs::remove_file(&other).unwrap();
    assert_same(&first, &tree::read(&output), "the second time");
}

#[test]
fn an_output_that_cannot_be() {
    let (_guard, root) = workplace();
    let file = root.join("file");
    fs::write(&file, "").unwrap();
    run(&mut units(&file, &[])).exits(3).complains(&["cannot be written"]);
    run(&mut units(Path::new("/proc/nowhere"), &[]))
        .exits(3)
        .complains(&["/proc/nowhere", "cannot be written"]);
    fs::create_dir_all(root.join("lib/systemd/system/microvms.target")).unwrap();
    let ran = run(&mut units(&root.join("lib"), &[])).exits(3);
    ran.complains(&["systemd/system/microvms.target cannot be written"]);
    let names = tree::names(&root.join("lib/systemd/system"));
    assert!(names.iter().all(|name| !name.starts_with('.')), "something temporary is left: {names:?}");
}
