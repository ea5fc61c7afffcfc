// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Who may do what in the state directory: its owner everything, others may
//! look, whatever the umask of the caller of `sync`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use crate::namespace::words;
use crate::support::program::{PROGRAM, copy, quiet, run};
use crate::support::skip::{needs, root};
use crate::support::tree::{self, Node};
use crate::sync_host::{Host, host};

fn with_umask(umask: &str, command: &Command) -> Command {
    let mut shell = quiet("/bin/sh");
    shell.args(["-c", "umask \"$1\" && shift && exec \"$@\"", "sh", umask]).args(words(command));
    shell
}

fn packages_and_more(host: &Host) -> tree::Tree {
    host.vm("b").file("wayland", b"");
    let vm = host.vm("a").provider("netvm");
    fs::create_dir_all(host.partition.root.join("share")).unwrap();
    vm.share("tag", "/ext/share");
    run(&mut with_umask("022", &host.sync())).exits(1);
    let tree = tree::read(&host.state);
    fs::remove_dir_all(&host.state).unwrap();
    tree
}

#[test]
fn others_may_look_and_nobody_else_may_write() {
    for umask in ["000", "022", "027", "077"] {
        let host = host();
        let usual = packages_and_more(&host);
        run(&mut with_umask(umask, &host.sync())).exits(1);
        let found = tree::read(&host.state);
        assert_eq!(usual.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (path, node) in &found {
            let executable = path.parent().is_some_and(|parent| parent.ends_with("bin"));
            match node {
                Node::Directory { mode } => assert_eq!(*mode, 0o755, "{umask}: {}", path.display()),
                // A process that may open it can keep all others waiting.
                Node::File { mode, content } if path.ends_with("lock") => {
                    assert_eq!((*mode, content.len()), (0o600, 0), "{umask}");
                }
                Node::File { mode, .. } if executable => {
                    assert_eq!(*mode, 0o755, "{umask}: {}", path.display());
                }
                Node::File { mode, .. } => assert_eq!(*mode, 0o644, "{umask}: {}", path.display()),
                Node::Link(_) => {}
                Node::Special => panic!("{}", path.display()),
            }
            let owner = host.state.join(path).symlink_metadata().unwrap().uid();
            assert_eq!(owner, rustix::process::geteuid().as_raw(), "{}", path.display());
        }
        // The same with another umask changes nothing.
        run(&mut with_umask("077", &host.sync())).exits(1);
        let mut again = tree::read(&host.state);
        // What sync remembers depends on the time.
        again.retain(|path, _| !path.ends_with("known.json"));
        assert_eq!(found, again, "{umask}");
    }
}

#[test]
fn directories_that_it_lies_in_are_made() {
    let host = host();
    host.vm("a");
    let deep = host.root.join("x/y/state");
    run(&mut with_umask("077", &host.sync_to(&deep))).exits(0).warns_of_nothing();
    for directory in [host.root.join("x"), host.root.join("x/y"), deep] {
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    }
}

#[test]
fn an_ordinary_user_may_have_a_state_directory() {
    needs!(root("can become an ordinary user; all other tests are about one"));
    let host = host();
    host.vm("a");
    let user = 65_533;
    let program = host.root.join("program");
    copy(PROGRAM, &program);
    std::os::unix::fs::chown(&host.root, Some(user), Some(user)).unwrap();
    let command = |call: &Command| {
        let mut command = quiet("setpriv");
        command.args(["--reuid", "65533", "--regid", "65533", "--clear-groups"]).arg(&program);
        command.args(call.get_args()).env("HOME", "/");
        command
    };
    run(&mut command(&host.sync())).exits(0).warns_of_nothing();
    host.is_whole();
    for path in tree::read(&host.state).keys() {
        let owner = host.state.join(path).symlink_metadata().unwrap().uid();
        assert_eq!(owner, user, "{}", path.display());
    }
    let listed = run(&mut command(&host.call(&["list"]))).exits(0);
    assert!(listed.stdout.contains("\na "), "{}", listed.stdout);
    // Of what is root's he changes nothing, and says so.
    std::os::unix::fs::chown(&host.root, Some(0), Some(0)).unwrap();
    fs::set_permissions(&host.root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(&host.state).unwrap();
    run(&mut host.sync()).exits(0);
    let before = crate::sync_host::touched(&host.state);
    host.vm("b");
    let ran = run(&mut command(&host.sync())).exits(3);
    ran.complains(&["error: ", ".microvm-spectrum", "Permission denied", "help: run it as root"]);
    assert_eq!(before, crate::sync_host::touched(&host.state));
}

#[test]
fn a_lock_that_others_could_keep_is_closed() {
    let host = host();
    host.synced();
    for mode in [0o644, 0o666, 0o660] {
        fs::set_permissions(host.own("lock"), fs::Permissions::from_mode(mode)).unwrap();
        host.synced();
        assert_eq!(host.own("lock").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }
}
