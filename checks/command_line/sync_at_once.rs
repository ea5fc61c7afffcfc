// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Two `sync` at the same time: one waits for the other, and so does the unit that notes what
//! a VM is started from.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::namespace::mounts;
use crate::support::program::run;
use crate::support::skip::{needs, root};
use crate::support::tree;
use crate::sync_host::{Host, host};

/// How long a process waits that does not wait for ever.
const A_WHILE: Duration = Duration::from_millis(300);

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn succeeds(mut child: Child) {
    let until = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it waits for ever");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// The lock of a `sync` that goes on.
fn syncing(host: &Host) -> File {
    let lock = File::options().write(true).open(host.own("lock")).unwrap();
    rustix::fs::fcntl_lock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

fn locked(host: &Host, operation: FlockOperation) -> File {
    let lock = File::open(host.own("lock")).unwrap();
    rustix::fs::flock(&lock, operation).unwrap();
    lock
}

#[test]
fn the_second_waits_for_the_first() {
    let host = host();
    host.vm("a");
    host.synced();
    host.vm("b");
    for _ in 0..2 {
        let generation = host.generation();
        // This process must not close the lock's file again: that would release this lock.
        let lock = syncing(&host);
        let mut child = start(&mut host.sync());
        let until = Instant::now() + A_WHILE;
        while Instant::now() < until {
            assert_eq!(child.try_wait().unwrap(), None, "it did not wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(host.generation(), generation, "it changed something while another process had the lock");
        drop(lock);
        succeeds(child);
        host.is_whole();
        host.has(&[("user/a", "runnable"), ("user/b", "runnable")][..]);
        host.configure("[vm.a]\nmemory = 64\n");
    }
    assert_eq!(host.generation(), 3);
}

#[test]
fn nothing_is_switched_or_removed_while_a_vm_starts() {
    let host = host();
    host.vm("a");
    host.synced();
    host.vm("b");
    for (generation, operation) in [(1, FlockOperation::LockExclusive), (2, FlockOperation::LockShared)] {
        let package = host.package("user/a");
        let lock = locked(&host, operation);
        host.configure(&format!("[vm.a]\nmemory = {}\n", 64 + generation));
        let mut child = start(&mut host.sync());
        std::thread::sleep(A_WHILE);
        assert_eq!(child.try_wait().unwrap(), None, "it did not wait");
        assert_eq!(host.generation(), generation);
        assert!(package.is_dir());
        drop(lock);
        succeeds(child);
        host.is_whole();
        assert!(!package.exists());
    }
}

#[test]
fn a_vm_starts_while_a_sync_goes_on() {
    needs!(root("notes it"));
    needs!(mounts());
    let host = host();
    host.vm("a");
    host.synced();
    let _lock = syncing(&host);
    run(&mut host.set_booted("a")).exits(0).says_nothing();
}

#[test]
fn looking_waits_for_nobody() {
    let host = host();
    host.vm("a");
    host.synced();
    let _lock = locked(&host, FlockOperation::LockExclusive);
    assert!(run(&mut host.call(&["list"])).exits(0).stdout.contains("\na "));
    let output = host.root.join("units");
    run(host.unit_calls(&["generate"]).arg(&output)).exits(0).says_nothing();
    assert!(output.join("microvm@a.service.d").is_dir());
}

#[test]
fn many_at_once_all_succeed() {
    let host = host();
    for name in ["a", "b", "c", "d"] {
        host.vm(name);
    }
    let other = host.root.join("other.toml");
    let text = std::fs::read_to_string(&host.config).unwrap();
    std::fs::write(&other, text.replace("[tools]", "[defaults]\nmemory = 64\n[tools]")).unwrap();
    let sync = |index: usize| {
        let mut command = host.sync();
        if index % 2 == 1 {
            command = crate::support::program::call(["sync", "--no-systemd", "--config"]);
            command.arg(&other).arg("--state-dir").arg(&host.state);
        }
        command
    };
    for _ in 0..5 {
        let children: Vec<_> = (0..8).map(|index| start(&mut sync(index))).collect();
        children.into_iter().for_each(succeeds);
        host.is_whole();
    }
    assert_eq!(host.leases().values().copied().collect::<Vec<_>>(), [70_000, 70_001, 70_002, 70_003]);
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "b", "c", "d"]);
}

#[test]
fn what_a_vm_is_started_from_is_noted_between_two_syncs() {
    needs!(root("notes it"));
    needs!(mounts());
    let host = host();
    host.vm("a");
    host.synced();
    let set_booted = || host.set_booted("a");
    let lock = locked(&host, FlockOperation::LockExclusive);
    let mut child = start(&mut set_booted());
    std::thread::sleep(A_WHILE);
    assert_eq!(child.try_wait().unwrap(), None, "it did not wait");
    assert!(!host.state.join("a/booted").is_symlink());
    drop(lock);
    succeeds(child);
    // Two VMs need not wait for each other.
    let _shared = locked(&host, FlockOperation::LockShared);
    run(&mut set_booted()).exits(0).says_nothing();
    assert_eq!(std::fs::read_link(host.state.join("a/booted")).unwrap(), host.package("user/a"));
}
