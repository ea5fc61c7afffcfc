// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Entries that another process swaps all the time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::bounded_sync::Host;
use crate::support::vm_directory::{elf_header, make_fifo};

const ROUNDS: usize = 50;

/// What an entry is swapped for: each is made once, and renamed to and fro.
fn disguises(place: &Path, name: &str) -> Vec<PathBuf> {
    let path = |kind: &str| place.join(format!("{name}-{kind}"));
    let make = |kind: &str, make: &dyn Fn(&Path)| {
        let path = path(kind);
        make(&path);
        path
    };
    vec![
        make("fifo", &|path| make_fifo(path)),
        make("huge", &|path| {
            fs::write(path, elf_header()).unwrap();
            fs::File::options().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
        }),
        make("outside", &|path| symlink("/etc/passwd", path).unwrap()),
        make("climbs", &|path| symlink("../../../../../../../../../../etc", path).unwrap()),
        make("circle", &|path| symlink(name, path).unwrap()),
        make("processes", &|path| symlink("/proc/self/root", path).unwrap()),
        make("root", &|path| symlink("/", path).unwrap()),
        make("empty", &|path| fs::create_dir(path).unwrap()),
    ]
}

/// Swaps the entry for each of its disguises, and lets it be away in between.
fn swap(entry: &Path, disguises: &[PathBuf], away: &Path) {
    for disguise in disguises {
        fs::rename(entry, away).unwrap();
        fs::rename(disguise, entry).unwrap();
        std::thread::yield_now();
        fs::rename(entry, disguise).unwrap();
        fs::rename(away, entry).unwrap();
        std::thread::yield_now();
    }
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Syncs again and again while these entries of the partition are swapped.
fn while_swapping(host: &Host, entries: &[&str]) {
    let place = host.partition.root.join("disguises");
    fs::create_dir(&place).unwrap();
    let entries: Vec<_> = entries.iter().map(|entry| host.partition.root.join(entry)).collect();
    let prepared: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            (entry, disguises(&place, &index.to_string()), place.join(format!("away-{index}")))
        })
        .collect();
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut complained = 0;
    std::thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for its threads.
        let stopping = StopAtEnd(&stop);
        let swapping = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (entry, disguises, away) in &prepared {
                    swap(entry, disguises, away);
                }
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..ROUNDS {
            // However slow it is, something is swapped in each round.
            while swaps.load(Ordering::Relaxed) < round && !swapping.is_finished() {
                std::thread::yield_now();
            }
            let ran = host.synced();
            assert!(ran.stderr.lines().count() <= 40, "{}", ran.stderr);
            complained += usize::from(!ran.stderr.is_empty());
        }
        drop(stopping);
        swapping.join().unwrap();
    });
    assert!(swaps.into_inner() >= ROUNDS - 1);
    assert!(complained > 0, "nothing was ever swapped while sync looked");
    // It is as it was.
    fs::remove_dir_all(&place).unwrap();
    host.synced().exits(0).has_no_complaint();
    let states = host.states();
    assert!(states.len() == 2 && states.values().all(|state| state == "runnable"), "{states:?}");
}

fn host() -> Host {
    let host = Host::new();
    host.partition.vm("good").image("root.img", b"");
    fs::create_dir(host.partition.root.join("shared")).unwrap();
    fs::create_dir(host.partition.root.join("images")).unwrap();
    fs::write(host.partition.root.join("images/x.img"), "").unwrap();
    host.partition
        .vm("victim")
        .image("root.img", b"")
        .image_link("linked.img", "/ext/images/x.img")
        .share("s", "/ext/shared")
        .provider("good");
    host
}

#[test]
fn files() {
    let files = ["vmlinux", "blk/root.img", "blk/linked.img", "shared-dirs/s/dir", "providers/net/good"];
    while_swapping(
        &host(),
        &files.map(|file| Box::leak(format!("svc/data/victim/{file}").into_boxed_str()) as &str),
    );
}

#[test]
fn directories() {
    let victim = "svc/data/victim";
    let directories = ["blk", "shared-dirs", "shared-dirs/s", "providers", "providers/net"];
    let mut entries: Vec<_> = directories.iter().map(|name| format!("{victim}/{name}")).collect();
    entries.push(victim.to_owned());
    entries.push("images".to_owned());
    entries.push("shared".to_owned());
    while_swapping(&host(), &entries.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_partition_itself() {
    while_swapping(&host(), &["svc/data", "svc"]);
}
