// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync` where nothing can be written, and where the disk is full at any
//! moment: the old catalog or the new one, whole, and the next `sync` goes on.

use std::path::Path;
use std::process::Command;

use crate::namespace::{mounts, shell, words};
use crate::support::program::{Ran, run};
use crate::support::skip::needs;
use crate::support::tree;
use crate::sync_host::{host, host_in_memory, is_whole};
use crate::sync_when_killed::{sync, two_configurations, vms};

/// Mounts a file system in memory on `$1`, copies `$3` there and runs `$@`;
/// what is there then is copied to `$4`, and what a second run makes of it,
/// with more room, to `$4-again`.
const IN_A_SMALL_FILE_SYSTEM: &str = r#"
set -eu
directory=$1; options=$2; old=$3; copy=$4; shift 4
mount -t tmpfs -o "$options" none "$directory"
if [ -n "$old" ]; then cp -a "$old/." "$directory" 2>/dev/null || exit 77; fi
set +e
"$@"
status=$?
set -e
cp -a "$directory" "$copy"
case $options in *ro*) exit $status;; esac
mount -o remount,size=64m,nr_inodes=10000 none "$directory"
"$@" || exit 78
cp -a "$directory" "$copy-again"
exit $status
"#;

fn run_in(directory: &Path, options: &str, old: Option<&Path>, copy: &Path, command: &Command) -> Ran {
    for copy in [copy.to_owned(), copy.with_file_name("copy-again")] {
        let _ = std::fs::remove_dir_all(copy);
    }
    let old = old.map_or_else(Default::default, |old| old.as_os_str().to_owned());
    let first = [directory.as_os_str(), options.as_ref(), &old, copy.as_os_str()];
    run(&mut shell(IN_A_SMALL_FILE_SYSTEM, first.into_iter().chain(words(command))))
}

#[test]
fn a_state_directory_that_cannot_be_written_to() {
    let host = host();
    let configs = two_configurations(&host);
    std::fs::create_dir(&host.state).unwrap();
    needs!(mounts());
    let copy = host.root.join("copy");
    let ran = run_in(&host.state, "mode=755,ro", None, &copy, &sync(&configs[0], &host.state)).exits(3);
    ran.complains(&[
        ".microvm-spectrum: cannot be written: Read-only file system",
        "help: mount its file system for writing",
    ]);
    assert_eq!(tree::names(&copy), [""; 0]);
}

#[test]
fn a_disk_that_is_full_at_any_moment() {
    let host = host_in_memory();
    let configs = two_configurations(&host);
    needs!(mounts());
    let (old, new, copy) = (host.root.join("old"), host.root.join("new"), host.root.join("copy"));
    run(&mut sync(&configs[0], &old)).exits(0);
    run(&mut sync(&configs[0], &new)).exits(0);
    run(&mut sync(&configs[1], &new)).exits(0);
    let expected = [vms(&old), vms(&new)];
    std::fs::create_dir(&host.state).unwrap();
    let command = sync(&configs[1], &host.state);
    for (what, limits) in [("pages", (2..100).step_by(2)), ("inodes", (2..170).step_by(3))] {
        let (mut kept, mut switched) = (0, 0);
        for limit in limits {
            let options = match what {
                "pages" => format!("size={}k,mode=755", limit * 4),
                _ => format!("nr_inodes={limit},mode=755"),
            };
            let ran = run_in(&host.state, &options, Some(&old), &copy, &command);
            match ran.status {
                // The old state directory does not fit.
                77 => continue,
                0 => assert_eq!(vms(&copy), expected[1], "{options}"),
                3 => assert!(ran.stderr.contains("cannot be written: No space left"), "{}", ran.stderr),
                other => panic!("{options}: status {other}: {}", ran.stderr),
            }
            is_whole(&copy);
            let found = vms(&copy);
            if found == expected[1] {
                switched += 1;
                // Or else systemd would not be told of it.
                assert_eq!(ran.status, 0, "{options}: it failed, but switched");
            } else {
                assert_eq!(found, expected[0], "{options}: neither catalog");
                kept += 1;
            }
            let again = copy.with_file_name("copy-again");
            is_whole(&again);
            assert_eq!(vms(&again), expected[1], "{options}");
            assert_eq!(tree::names(&again), [".microvm-spectrum", "changes", "q", "r", "same"]);
            let own = [".microvm-spectrum/packages", ".microvm-spectrum/generations"];
            assert_eq!(own.map(|own| tree::names(&again.join(own)).len()), [4, 1], "{options}");
        }
        println!("{what}: {kept} kept, {switched} switched");
        assert!(kept > 2 && switched > 2, "{what}: {kept} {switched}");
    }
}
