// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `build` where nothing can be written, and where the disk is full at any
//! moment: no package, or a complete one, and never anything temporary.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::namespace::{mounts, shell, words};
use crate::support::program::{Ran, build, run};
use crate::support::skip::needs;
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

/// Mounts a file system in memory that no other process sees, runs `$@` and lists
/// what is there then.
const IN_A_SMALL_FILE_SYSTEM: &str = r#"
set -eu
directory=$1; options=$2; preparation=$3; shift 3
mount -t tmpfs -o "$options" none "$directory"
eval "$preparation"
before=$(find "$directory" -mindepth 1 | sort)
set +e
"$@"
status=$?
after=$(find "$directory" -mindepth 1 | sort)
[ "$before" = "$after" ] || echo "$after"
exit $status
"#;

/// Runs `command` with such a file system mounted on `directory`.
fn run_in(directory: &Path, options: &str, preparation: &str, command: &Command) -> Ran {
    let first = [directory.as_os_str(), OsStr::new(options), OsStr::new(preparation)];
    run(&mut shell(IN_A_SMALL_FILE_SYSTEM, first.into_iter().chain(words(command))))
}

fn vm(root: &Path) -> VmDirectory {
    let vm = Partition::at(&root.join("partition")).vm("vm").image("root.img", b"").provider("netvm");
    std::fs::create_dir(root.join("partition/shared")).unwrap();
    vm.share("tag", "/ext/shared")
}

#[test]
fn a_folder_that_cannot_be_written_to() {
    let (_guard, root) = workplace();
    let (vm, folder) = (vm(&root), root.join("packages"));
    std::fs::create_dir(&folder).unwrap();
    needs!(mounts());
    let output = folder.join("out");
    let command = build(&vm.path, &output, "qemu");
    let ran = run_in(&folder, "mode=755,ro", ":", &command).exits(3);
    assert_eq!(ran.stdout, "", "something is left");
    ran.complains(&[&format!("{} cannot be written: Read-only file system", folder.display())]);
}

#[test]
fn a_disk_that_is_full_at_any_moment() {
    let (_guard, root) = workplace();
    let (vm, folder) = (vm(&root), root.join("packages"));
    std::fs::create_dir(&folder).unwrap();
    needs!(mounts());
    let output = folder.join("out");
    let mut old = build(&vm.path, &root.join("old"), "cloud-hypervisor");
    run(old.args(["--memory", "64"])).exits(0);
    let copy = format!("cp -a '{}' '{}'", root.join("old").display(), output.display());
    // As many pages and, apart from that, as many files as the old package needs and then some.
    for (what, most) in [("pages", 40), ("inodes", 60)] {
        let (mut failures, mut successes) = ([0; 2], [0; 2]);
        for limit in 2..most {
            let options = match what {
                "pages" => format!("size={}k", limit * 4),
                _ => format!("nr_inodes={limit}"),
            };
            for (index, force) in [false, true].into_iter().enumerate() {
                let mut command = build(&vm.path, &output, "qemu");
                let preparation = if force { copy.as_str() } else { ":" };
                if force {
                    command.arg("--force");
                    if !fits(&folder, &options, preparation) {
                        continue;
                    }
                }
                let ran = run_in(&folder, &options, preparation, &command);
                match ran.status {
                    0 => {
                        let paths: Vec<_> = ran.stdout.lines().collect();
                        let manifest = output.join("share/microvm-spectrum/manifest.json");
                        assert!(paths.contains(&manifest.to_str().unwrap()), "{options}: {}", ran.stdout);
                        let only = paths.iter().all(|path| Path::new(path).starts_with(&output));
                        assert!(only, "{options}: something is left\n{}", ran.stdout);
                        successes[index] += 1;
                    }
                    3 => {
                        assert_eq!(
                            ran.stdout, "",
                            "{options}, force {force}: something is left\n{}",
                            ran.stderr
                        );
                        assert!(ran.stderr.contains("cannot be written: No space left"), "{}", ran.stderr);
                        failures[index] += 1;
                    }
                    other => panic!("{options}: status {other}: {}", ran.stderr),
                }
            }
        }
        assert!(
            failures.iter().chain(&successes).all(|count| *count > 2),
            "{what}: {failures:?} {successes:?}"
        );
    }
}

fn fits(folder: &Path, options: &str, preparation: &str) -> bool {
    run_in(folder, options, preparation, &Command::new("true")).status == 0
}
