// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the worst source may cost: processor time, memory, the catalog, and what is printed.
//!
//! The limits are those of 10,000 VM directories. There are as many when
//! `HOSTILE_VMS=10000` is in the environment; without it fewer, to take less time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::bounded_sync::Host;
use crate::support::program::{Ran, run};
use crate::support::vm_directory::{Partition, VmDirectory};

/// What `sync` may take for 10,000 VMs, in KiB; a little of it is for the program itself.
const MEMORY_KIB: u32 = 200 << 10;
const CATALOG_BYTES: u64 = 50 << 20;
const PRINTED_BYTES: usize = 1 << 20;
/// Without optimisation, all takes several times as long.
const CPU_SECONDS: u64 = if cfg!(debug_assertions) { 60 } else { 10 };
/// How much longer a VM of another source takes to start.
const DELAY: Duration = Duration::from_secs(1);

fn vms() -> usize {
    std::env::var("HOSTILE_VMS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(if cfg!(debug_assertions) { 300 } else { 2_000 })
}

/// A source that an attacker wrote, and after it another with the VM `good`, which shares a directory.
fn two_sources() -> Host {
    let host = Host::new();
    let other = Partition::at(&host.state.with_file_name("other"));
    fs::create_dir(other.root.join("shared")).unwrap();
    other.vm("good").image("root.img", b"").share("s", "/ext/shared");
    let config = fs::read_to_string(&host.config).unwrap();
    let path = other.root.display();
    let source = format!("[[source]]\nkind = 'user-partition'\nname = 'other'\npath = '{path}'\n");
    fs::write(&host.config, config.replace("[tools]", &format!("{source}[tools]"))).unwrap();
    host
}

/// Makes many VM directories, which are links to one.
fn many(host: &Host, one: impl FnOnce(VmDirectory)) {
    one(VmDirectory::at(&host.partition.root.join("one")));
    for number in 0..vms() {
        symlink("../../one", host.partition.root.join(format!("svc/data/vm-{number:05}"))).unwrap();
    }
}

/// Syncs within the limits, twice, while a VM of another source starts again and again.
#[track_caller]
fn costs(host: &Host) -> Ran {
    let mut last = None;
    for round in ["first", "second"] {
        let mut command = host.sync_within(MEMORY_KIB, CPU_SECONDS);
        let started = Instant::now();
        let (ran, delay) = while_starting(host, || run(&mut command));
        assert!(matches!(ran.status, 0 | 1), "{}: {}", ran.status, ran.stderr);
        let catalog = fs::metadata(host.state.join(".microvm-spectrum/current/catalog.json")).unwrap().len();
        eprintln!(
            "{round} sync of {} VMs: {:?}, catalog of {} KiB, {} KiB printed, a start delayed by {delay:?}",
            vms(),
            started.elapsed(),
            catalog >> 10,
            (ran.stderr.len() + ran.stdout.len()) >> 10
        );
        assert!(catalog < CATALOG_BYTES && ran.stderr.len() + ran.stdout.len() < PRINTED_BYTES);
        assert!(delay < DELAY, "{delay:?}");
        assert_eq!(host.states()["good"], "runnable");
        last = Some(ran);
    }
    last.unwrap()
}

/// Takes the lock that a VM takes that starts, for as long as `sync` runs; returns how long
/// that took at most.
fn while_starting<T>(host: &Host, sync: impl FnOnce() -> T) -> (T, Duration) {
    let path = host.state.join(".microvm-spectrum/lock");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                let Ok(lock) = fs::File::open(&path) else { continue };
                let asked = Instant::now();
                rustix::fs::flock(&lock, FlockOperation::LockShared).unwrap();
                longest = longest.max(asked.elapsed());
            }
            longest
        });
        let synced = sync();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (synced, starting.join().unwrap())
    })
}

/// Names of the longest kind, as many as fit into a link's text.
fn long(character: char) -> String {
    let name: String = std::iter::repeat_n(character, 250 / character.len_utf8()).collect();
    vec![name; 16].join("/")
}

#[test]
fn texts_of_control_characters() {
    let host = two_sources();
    many(&host, |mut vm| {
        for number in 0..12 {
            vm = vm.image_link(format!("{number}.img"), format!("/{}", long('\u{1b}')));
        }
        for number in 0..8 {
            vm = vm.share(number.to_string(), format!("/{}", long('\u{1}')));
        }
        vm.without("vmlinux").link("vmlinux", format!("/{}", long('\u{202e}')));
    });
    let ran = costs(&host);
    assert_eq!(ran.status, 1);
    let more = "the VMs of the source user have";
    ran.complains(&["…", "the paths and links of the VM directory have more than 32768 bytes", more]);
    // Each VM that does not run says why.
    let states = host.states();
    assert_eq!(states.values().filter(|state| *state == "broken").count(), vms());
}

#[test]
fn links_of_many_steps() {
    let host = two_sources();
    many(&host, |mut vm| {
        fs::create_dir(vm.path.join("d")).unwrap();
        // Nearly all that one VM may take, then more.
        vm = vm.image_link("a.img", format!("../{}vmlinux", "d/../".repeat(700)));
        for number in 0..11 {
            vm = vm.image_link(format!("{number}.img"), format!("../{}vmlinux", "d/../".repeat(800)));
        }
        drop(vm);
    });
    let ran = costs(&host);
    assert_eq!(ran.status, 1);
    ran.complains(&["the links of the VM directory lead through more than 2000 names"]);
}

#[test]
fn directories_of_many_entries() {
    let host = two_sources();
    many(&host, |vm| {
        let one = vm.path.join("vmlinux");
        for number in 0..100_000 {
            fs::hard_link(&one, vm.path.join(format!("file {number}"))).unwrap();
        }
    });
    let ran = costs(&host);
    assert_eq!(ran.status, 1);
    ran.complains(&["the directories of the VM directory have more than 4096 entries"]);
}

#[test]
fn vms_that_run_with_all_that_they_can_have() {
    let host = two_sources();
    fs::create_dir(host.partition.root.join("images")).unwrap();
    many(&host, |mut vm| {
        for number in 0..12 {
            let name = format!("{number}{}", "\u{1}".repeat(100));
            fs::write(host.partition.root.join("images").join(&name), "").unwrap();
            vm = vm.image_link(format!("{name}.img"), format!("/ext/images/{name}"));
        }
        for number in 0..8 {
            let shared = host.partition.root.join(format!("shared/{number}"));
            fs::create_dir_all(shared).unwrap();
            vm = vm.share(number.to_string(), format!("/ext/shared/{number}"));
        }
    });
    let config = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, config.replacen("name = 'user'", "name = 'user'\nmax-vms = 200", 1)).unwrap();
    let ran = costs(&host);
    assert_eq!(ran.status, 1);
    ran.complains(&["the source user has no lease left for this VM: 200 of its VMs can run"]);
    let states = host.states();
    assert_eq!(states.values().filter(|state| *state == "runnable").count(), 201);
}

#[test]
fn vms_that_wait_for_others() {
    let host = two_sources();
    many(&host, |vm| {
        let vm = vm.image("root.img", b"");
        ["a", "b", "c", "d"].into_iter().fold(vm, |vm, provider| vm.provider(provider));
    });
    let ran = costs(&host);
    assert_eq!(ran.status, 1);
    // They have taken nothing.
    let leases = fs::read_to_string(host.state.join(".microvm-spectrum/leases.json")).unwrap();
    assert!(leases.contains("other/good") && !leases.contains("user/"), "{leases}");
}

#[test]
fn vm_directories_that_are_the_whole_host() {
    let host = two_sources();
    let data = host.partition.root.join("svc/data");
    let other = host.state.with_file_name("other");
    fs::remove_dir(&data).unwrap();
    for target in [Path::new("/"), &other.join("shared"), Path::new("/ext"), Path::new("../..")] {
        symlink(target, &data).unwrap();
        let ran = run(&mut host.sync(MEMORY_KIB));
        assert!(matches!(ran.status, 0 | 1), "{}: {}", ran.status, ran.stderr);
        assert_eq!(host.states()["good"], "runnable", "{}", target.display());
        fs::remove_file(&data).unwrap();
    }
}
