// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The same input gives the same bytes, whatever the surroundings.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::support::program::{HYPERVISORS, PROGRAM, TOOLS, call, quiet, run};
use crate::support::skip::skipped;
use crate::support::tree::{self, assert_same};
use crate::support::vm_directory::{Partition, VmDirectory};

/// A directory in memory where there is one: there the listing's order follows
/// from the order of creation, while others sort by a hash of the name.
fn workplace() -> (tempfile::TempDir, PathBuf) {
    let memory = Path::new("/dev/shm");
    let directory = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn vm(root: &Path) -> VmDirectory {
    let partition = Partition::at(&root.join("partition"));
    let mut vm = partition.vm("vm").provider("netvm").provider("anothervm").provider("z");
    for name in ["root", "a", "Z", "ı", "İ", "b10", "b9", "data"] {
        vm = vm.image(format!("{name}.img"), name.as_bytes());
        fs::create_dir_all(partition.root.join("shares").join(name)).unwrap();
    }
    for tag in ["root", "I", "i", "ı", "ü", "a b"] {
        vm = vm.share(tag, "/ext/shares/a");
    }
    vm
}

/// Copies `from` to `to`, in another order, with other times and with names
/// that come and go in between.
fn copy_shuffled(from: &Path, to: &Path, count: &mut i64) {
    fs::create_dir(to).unwrap();
    let mut names = tree::names(from);
    names.reverse();
    let middle = names.len() / 2;
    names.rotate_left(middle);
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        let passing = to.join(format!("passing-{count}"));
        fs::write(&passing, "").unwrap();
        let kind = source.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            copy_shuffled(&source, &target, count);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source).unwrap(), &target).unwrap();
        } else {
            fs::write(&target, fs::read(&source).unwrap()).unwrap();
        }
        fs::remove_file(passing).unwrap();
        *count += 1;
        let time = Timespec { tv_sec: *count * 86_400, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &target, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// A build in a shell that sets the umask first, which only a shell can here.
fn build(umask: &str, directory: &Path, output: &Path, hypervisor: &str, tools: &[&str]) -> Command {
    let mut command = quiet("/bin/sh");
    command.args(["-c", "umask \"$1\" && shift && exec \"$@\"", "sh", umask, PROGRAM, "build"]);
    command.arg(directory).arg("--output").arg(output).args(["--hypervisor", hypervisor]);
    if hypervisor == "qemu" {
        command.args(["--accel", "tcg"]);
    }
    for tool in tools {
        command.arg("--tool").arg(format!("{tool}=/usr/bin/{tool}"));
    }
    command
}

#[test]
fn only_the_input_has_a_say() {
    let (_guard, root) = workplace();
    let vm = vm(&root);
    let original = tree::read(&vm.path);
    let before = tree::listing(&vm.path.join("blk"));
    for folder in ["one", "two"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    for hypervisor in HYPERVISORS {
        let output = root.join("one").join(hypervisor);
        let mut command = build("0022", &vm.path, &output, hypervisor, &TOOLS);
        command.current_dir("/").env("LC_ALL", "C").env("LANG", "C").env("TZ", "UTC").env("HOME", "/");
        run(command.env_remove("SOURCE_DATE_EPOCH")).exits(0).says_nothing();
    }

    let away = root.join("away");
    fs::rename(&vm.path, &away).unwrap();
    copy_shuffled(&away, &vm.path, &mut 0);
    fs::remove_dir_all(&away).unwrap();
    assert_same(&original, &tree::read(&vm.path), "the copy is another input");
    let after = tree::listing(&vm.path.join("blk"));
    if root.starts_with("/dev/shm") {
        assert_ne!(before, after, "the copy is listed in the same order, so this would test nothing");
    } else if before == after {
        skipped("the listing's order", "this file system lists both copies in the same order");
    }

    let mut tools = TOOLS;
    tools.reverse();
    for hypervisor in HYPERVISORS {
        // Relative paths, from within the user partition.
        let (directory, output) = (Path::new("data/vm"), Path::new("../../two").join(hypervisor));
        let mut command = build("0077", directory, &output, hypervisor, &tools);
        command.current_dir(root.join("partition/svc")).env("LC_ALL", "tr_TR.UTF-8").env_remove("LANG");
        command.env("TZ", "Pacific/Kiritimati").env("SOURCE_DATE_EPOCH", "1").env_remove("HOME");
        run(command.env("PATH", "")).exits(0).says_nothing();

        let (one, two) = (root.join("one").join(hypervisor), root.join("two").join(hypervisor));
        let packages = [tree::read(&one), tree::read(&two)];
        assert!(packages[0].len() > 20, "a package with everything in it: {:?}", packages[0].keys());
        assert_same(&packages[0], &packages[1], hypervisor);
        let command = |package: &Path| run(call(["command"]).arg(package)).exits(0).stdout;
        assert_eq!(command(&one), command(&two));
    }
}
