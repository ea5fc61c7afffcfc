// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Very many entries, and very large ones.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use crate::bounded_sync::{Host, MEMORY_KIB};
use crate::support::program::finish;
use crate::support::vm_directory::elf_header;

const MANY: usize = 100_000;

/// Makes empty files: other names of one, which takes less time.
fn fill(directory: &Path, name: impl Fn(usize) -> String) {
    let one = directory.join("one");
    fs::write(&one, "").unwrap();
    for index in 0..MANY {
        fs::hard_link(&one, directory.join(name(index))).unwrap();
    }
    fs::remove_file(one).unwrap();
}

#[test]
fn a_hundred_thousand_images() {
    let host = Host::new();
    host.partition.vm("good").image("root.img", b"");
    let full = host.partition.vm("full");
    fill(&full.path.join("blk"), |index| format!("{index}.img"));
    let ran = host
        .synced()
        .exits(1)
        .complains(&["full/blk: the directories of the VM directory have more than 4096 entries"]);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    assert_eq!(host.states()["full"], "broken");
    assert_eq!(host.states()["good"], "runnable");
}

#[test]
fn a_hundred_thousand_files_that_mean_nothing() {
    let host = Host::new();
    host.partition.vm("good").image("root.img", b"").directory("shared-dirs").directory("providers");
    let vm = host.partition.vm("full").image("root.img", b"");
    let data = host.partition.root.join("svc/data");
    fill(&vm.path.join("blk"), |index| format!("image {index}"));
    fill(&vm.path, |index| format!("file {index}"));
    fill(&data, |index| format!("file {index}"));
    let ran = host.synced().exits(1);
    // A few are named, the others counted.
    assert!(ran.stderr.lines().count() < 100 && ran.stderr.len() < 20_000, "{}", ran.stderr);
    assert_eq!(host.states()["good"], "runnable");
    assert_eq!(host.states()["full"], "broken");
}

#[test]
fn files_of_a_terabyte() {
    let host = Host::new();
    let vm = host.partition.vm("good").image("root.img", b"").kernel(&elf_header());
    for name in ["vmlinux", "blk/root.img"] {
        let file = fs::File::options().write(true).open(vm.path.join(name)).unwrap();
        file.set_len(1 << 40).unwrap();
    }
    host.synced().exits(0).has_no_complaint();
    assert_eq!(host.states()["good"], "runnable");
}

#[test]
fn the_limit_of_memory_is_one() {
    let host = Host::new();
    host.partition.vm("good").image("root.img", b"");
    let mut command = host.sync(MEMORY_KIB / 16);
    let output = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let killed = output.status.signal().is_some() || output.status.code() > Some(3);
    assert!(killed, "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}
