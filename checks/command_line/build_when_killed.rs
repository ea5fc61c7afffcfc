// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `build --force`, killed at any moment: the output is the whole old package
//! or the whole new one.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::program::{build, run};
use crate::support::tree::{self, assert_same};
use crate::support::vm_directory::{Partition, workplace};

const ROUNDS: u32 = 100;

/// Numbers that are random enough to spread over the time of a build.
struct Random(u64);

impl Random {
    /// The next one, from 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

#[test]
fn the_output_is_always_whole() {
    let (_guard, root) = workplace();
    let mut vm = Partition::at(&root.join("partition")).vm("vm").image("root.img", b"");
    for tag in ["a", "b", "c", "d"] {
        fs::create_dir_all(root.join("partition/shares").join(tag)).unwrap();
        vm = vm.share(tag, format!("/ext/shares/{tag}"));
    }
    let folder = root.join("packages");
    fs::create_dir(&folder).unwrap();
    let (output, memories) = (folder.join("out"), ["64", "128"]);
    let started = Instant::now();
    let packages = memories.map(|memory| {
        run(build(&vm.path, &root.join(memory), "qemu").args(["--memory", memory])).exits(0);
        tree::read(&root.join(memory))
    });
    let usual = started.elapsed() / 2;
    assert_ne!(packages[0], packages[1]);
    run(build(&vm.path, &output, "qemu").args(["--memory", memories[0]])).exits(0);

    let (mut present, mut random) = (0, Random(0x9e37_79b9_7f4a_7c15));
    let (mut killed, mut kept, mut replaced, mut leftovers) = (0, 0, 0, 0);
    for round in 0..ROUNDS {
        let mut command = build(&vm.path, &output, "qemu");
        command.args(["--memory", memories[1 - present], "--force"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * 1.5 * random.next()));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal().is_some() {
            killed += 1;
        } else {
            assert!(status.success(), "{status}");
        }
        let found = tree::read(&output);
        if found == packages[1 - present] {
            present = 1 - present;
            replaced += 1;
        } else {
            assert_same(&packages[present], &found, &format!("neither package, in round {round}"));
            assert!(status.signal().is_some(), "it said that it had replaced the package");
            kept += 1;
        }
        // What a killed build leaves is hidden, and no later build minds it.
        for name in tree::names(&folder).into_iter().filter(|name| name != "out") {
            assert!(name.starts_with(".out.") && name.ends_with(".tmp"), "{name}");
            leftovers += 1;
            fs::remove_dir_all(folder.join(name)).unwrap();
        }
    }
    println!("{killed} killed, {kept} kept, {replaced} replaced, {leftovers} left a temporary directory");
    assert!(killed > 0 && kept > 0 && replaced > 0, "{killed} {kept} {replaced}");
}
