// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources that an attacker wrote: `sync` neither waits nor
//! panics, and shows what they say without doing it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::program::{Ran, parse, run};
use crate::support::vm_directory::{Partition, VmDirectory, elf_header, make_fifo};
use crate::sync_host::{Host, host, host_in_memory};

/// Whatever is in a source, it does not take longer.
const SOON: Duration = Duration::from_secs(90);

const HOSTILE: &str = "\u{1b}]0;t\u{7}\u{9b}31m\u{202e}\r\nerror: fake: fake";
const SHOWN: &str = "\\u{1b}]0;t\\u{7}\\u{9b}31m\\u{202e}\\r\\nerror: fake: fake";

impl Host {
    fn data(&self) -> std::path::PathBuf {
        self.partition.root.join("svc/data")
    }

    /// Asserts that nothing that `sync` wrote or `list` says is anything but plain.
    #[track_caller]
    fn is_plain(&self) {
        let catalog = fs::read_to_string(self.own("current/catalog.json")).unwrap();
        let listed = run(&mut self.call(&["list"])).exits(0).stdout;
        let json = run(self.call(&["list"]).arg("--json")).exits(0).stdout;
        for text in [catalog, listed, json] {
            let odd = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
            assert_eq!(odd, None, "{text}");
        }
    }
}

#[track_caller]
fn soon(host: &Host, status: i32) -> Ran {
    let started = Instant::now();
    let ran = run(&mut host.sync()).exits(status);
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    host.is_whole();
    ran
}

#[test]
fn what_a_name_says_is_shown_and_not_done() {
    let host = host();
    host.vm("good");
    host.vm(HOSTILE);
    let hostile = HOSTILE.replace('/', "_");
    host.vm("inside")
        .image_link(format!("{hostile}.img"), format!("/{hostile}"))
        .provider(&hostile)
        .share(&hostile, format!("/{hostile}"))
        .file(&hostile, b"");
    fs::write(host.data().join(format!("file {hostile}")), "").unwrap();
    symlink(&hostile, host.data().join("link")).unwrap();
    fs::create_dir(host.data().join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
    let ran = soon(&host, 1);
    assert!(!ran.stderr.contains('\u{202e}'), "{}", ran.stderr);
    let (problems, rest) = parse(&ran.stderr);
    assert_eq!(rest, [""; 0]);
    let all = problems.iter().map(|problem| problem.text.as_str()).collect::<Vec<_>>().join("\n");
    assert!(problems.iter().all(|problem| !problem.text.starts_with("fake")), "{all}");
    for what in [
        format!("{SHOWN}: a VM name cannot contain the character '\\u{{1b}}'"),
        format!("file {SHOWN}: is not a VM directory"),
        format!("blk/{SHOWN}.img: leads to"),
        "\\xff\\xfe: a VM name cannot contain bytes that are not UTF-8".to_owned(),
    ] {
        assert!(all.contains(&what), "{what} is not in\n{all}");
    }
    host.has(&[("user/good", "runnable"), ("user/inside", "broken"), ("user/link", "runnable")]);
    host.is_plain();
    // `start` prints the same reason.
    let ran = run(&mut host.call(&["start", "inside"])).exits(1);
    ran.complains(&[SHOWN, "inside cannot run"]);
}

#[test]
fn paths_of_the_administrator_may_say_anything_too() {
    let host = host();
    let place = host.root.join(HOSTILE.replace('/', "_"));
    let partition = Partition::at(&place.join("partition"));
    partition.vm("a").image("root.img", b"");
    let quoted = serde_json::to_string(partition.root.to_str().unwrap()).unwrap();
    let tools = crate::sync_host::tools();
    let config = place.join("config.toml");
    let text = format!("[[source]]\nkind = 'user-partition'\nname = 'user'\npath = {quoted}\n{tools}");
    fs::write(&config, text.replace("\u{7f}", "")).unwrap();
    let state = place.join("state");
    let sync = || {
        let mut command = crate::support::program::call(["sync", "--no-systemd", "--config"]);
        command.arg(&config).arg("--state-dir").arg(&state);
        command
    };
    let ran = run(&mut sync());
    // A path with a line break is no path of a runner package, or it is one, complete.
    assert!(matches!(ran.status, 0 | 1), "{}", ran.stderr);
    crate::sync_host::is_whole(&state);
    assert!(!ran.stderr.contains('\u{202e}'));
    fs::write(state.join(".microvm-spectrum/leases.json"), "").unwrap();
    run(&mut sync()).exits(1).complains(&[SHOWN, "is not a file of leases"]);
    fs::write(&config, "x").unwrap();
    run(&mut sync()).exits(2).complains(&[SHOWN, ":1:2: "]);
    fs::remove_file(&config).unwrap();
    run(&mut sync()).exits(2).complains(&[SHOWN, "cannot be read"]);
}

#[test]
fn nobody_waits_for_a_named_pipe() {
    let host = host();
    host.vm("good");
    let vm = |name: &str| VmDirectory::at(&host.data().join(name)).image("root.img", b"");
    vm("kernel").without("vmlinux").fifo("vmlinux");
    vm("image").fifo("blk/x.img");
    vm("images").without("blk").fifo("blk");
    vm("shares").fifo("shared-dirs");
    vm("share").directory("shared-dirs/tag").fifo("shared-dirs/tag/dir");
    vm("providers").fifo("providers");
    vm("net").directory("providers").fifo("providers/net");
    vm("linked").link("vmlinux", "/ext/pipe");
    make_fifo(&host.partition.root.join("pipe"));
    make_fifo(&host.data().join("pipe"));
    let ran = soon(&host, 1);
    ran.complains(&["is a named pipe", "leads to a named pipe", "is not a VM directory"]);
    let broken = host.states().iter().filter(|(_, state)| state == "broken").count();
    assert_eq!(broken, 8);
    assert_eq!(host.in_catalog("user/good")["state"], "runnable");
    // The partition itself.
    for directory in [host.data(), host.partition.root.join("svc")] {
        fs::remove_dir_all(&directory).unwrap();
        make_fifo(&directory);
        soon(&host, 0).complains(&["the source user cannot be read: Not a directory"]);
        fs::remove_file(&directory).unwrap();
    }
}

#[test]
fn a_partition_whose_directories_are_links() {
    let host = host();
    let elsewhere = Partition::at(&host.root.join("elsewhere"));
    elsewhere.vm("theirs").image("root.img", b"");
    for (place, target) in [
        ("svc/data", elsewhere.root.join("svc/data")),
        ("svc", elsewhere.root.join("svc")),
        ("svc/data", Path::new("../../elsewhere/svc/data").to_owned()),
    ] {
        let _ = fs::remove_dir_all(host.partition.root.join("svc"));
        let _ = fs::remove_file(host.partition.root.join("svc"));
        if place == "svc/data" {
            fs::create_dir(host.partition.root.join("svc")).unwrap();
        }
        let target = if target.is_absolute() { target } else { Path::new("../../elsewhere/svc/data").into() };
        symlink(target, host.partition.root.join(place)).unwrap();
        let ran = soon(&host, 1);
        // No message quotes what is there, not even names.
        assert!(!ran.stderr.contains("theirs"), "{}", ran.stderr);
        ran.complains(&["partition/svc/data: ", "outside of the places where links may lead"]);
        host.has(&[]);
    }
    for (place, target) in [("svc/data", "data"), ("svc/data", "/proc/self/fd"), ("svc/data", "/dev")] {
        let _ = fs::remove_dir_all(host.partition.root.join("svc"));
        let _ = fs::remove_file(host.partition.root.join("svc"));
        fs::create_dir(host.partition.root.join("svc")).unwrap();
        symlink(target, host.partition.root.join(place)).unwrap();
        let ran = run(&mut host.sync());
        assert!(matches!(ran.status, 0 | 1), "{}", ran.stderr);
        host.has(&[]);
    }
    // The way to the partition is the administrator's.
    let _ = fs::remove_dir_all(host.partition.root.join("svc"));
    let link = host.root.join("link");
    symlink(&elsewhere.root, &link).unwrap();
    host.configure_sources(&[("user", &link)], "");
    host.synced();
    host.has(&[("user/theirs", "runnable")]);
}

#[test]
fn directories_with_very_much_in_them() {
    let host = host_in_memory();
    host.vm("good");
    let vm = host.vm("full");
    fs::create_dir_all(vm.path.join("providers/net")).unwrap();
    fs::create_dir(vm.path.join("shared-dirs")).unwrap();
    for index in 0..800 {
        for place in ["", "blk", "providers", "providers/net"] {
            fs::write(vm.path.join(place).join(format!("entry-{index}")), "").unwrap();
        }
        fs::create_dir(vm.path.join(format!("shared-dirs/tag-{index}"))).unwrap();
    }
    let ran = soon(&host, 1);
    assert!(ran.stderr.len() < 20_000, "{} bytes", ran.stderr.len());
    ran.complains(&["names 800 network providers", "holds 800 shared directories"]);
    host.has(&[("user/full", "broken"), ("user/good", "runnable")]);
}

#[test]
fn a_file_that_never_ends() {
    let host = host();
    host.vm("good");
    let vm = host.vm("big");
    for name in ["vmlinux", "blk/root.img"] {
        let file = fs::File::options().write(true).open(vm.path.join(name)).unwrap();
        file.set_len(1 << 42).unwrap_or_else(|_| file.set_len(1 << 30).unwrap());
    }
    soon(&host, 0);
    host.has(&[("user/big", "runnable"), ("user/good", "runnable")]);
}

#[test]
fn hundreds_of_vms() {
    let host = host_in_memory();
    host.vm("real");
    for index in 0..300 {
        symlink("real", host.data().join(format!("alias-{index}"))).unwrap();
        fs::create_dir(host.data().join(format!("empty-{index}"))).unwrap();
        fs::create_dir(host.data().join(format!("bad name {index}"))).unwrap();
    }
    soon(&host, 1);
    let states = host.states();
    let count = |wanted: &str| states.iter().filter(|(_, state)| state == wanted).count();
    assert_eq!((count("runnable"), count("broken")), (301, 300));
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_partition_that_changes_all_the_time() {
    let host = host_in_memory();
    host.vm("good");
    let data = host.data();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for its threads.
        let stopping = StopAtEnd(&stop);
        let changing = scope.spawn(|| {
            let (one, two) = (host.root.join("one"), host.root.join("two"));
            fs::create_dir(&one).unwrap();
            fs::write(one.join("vmlinux"), elf_header()).unwrap();
            fs::create_dir(one.join("blk")).unwrap();
            fs::write(one.join("blk/x.img"), "").unwrap();
            symlink("/etc", &two).unwrap();
            let victim = data.join("victim");
            while !stop.load(Ordering::Relaxed) {
                for from in [&one, &two] {
                    fs::rename(from, &victim).unwrap();
                    std::thread::yield_now();
                    fs::rename(&victim, from).unwrap();
                }
                let good = data.join("good/blk/root.img");
                fs::remove_file(&good).unwrap();
                make_fifo(&good);
                fs::remove_file(&good).unwrap();
                fs::write(&good, "").unwrap();
            }
        });
        for _ in 0..60 {
            let ran = run(&mut host.sync());
            assert!(matches!(ran.status, 0 | 1), "{}", ran.stderr);
            host.is_whole();
        }
        drop(stopping);
        changing.join().unwrap();
    });
    soon(&host, 0);
    host.has(&[("user/good", "runnable")]);
}

#[test]
fn thousands_of_entries_that_are_no_vms() {
    let host = host_in_memory();
    host.vm("good");
    for index in 0..20_000 {
        fs::write(host.data().join(format!("file {index:05}")), "").unwrap();
    }
    for index in 0..3000 {
        fs::create_dir(host.data().join(format!("bad name {index}"))).unwrap();
    }
    let ran = soon(&host, 1);
    let (problems, _) = parse(&ran.stderr);
    // Files are counted; what was meant for a VM is an error, told once for each of two causes.
    let notes: Vec<_> = problems.iter().filter(|problem| problem.severity == "note").collect();
    assert_eq!(notes.len(), 9, "{notes:?}");
    assert!(notes.iter().any(|note| note.text.contains("19992 more entries are not VM directories")));
    // The first ones by name, whatever order the file system has.
    assert!((0..8).all(|index| notes.iter().any(|note| note.text.contains(&format!("/file {index:05}: ")))));
    assert!(
        problems
            .iter()
            .any(|problem| problem.text.contains("/bad name ") && problem.text.contains(" more: "))
    );
    assert_eq!(problems.len(), 9 + 2 + 1, "{problems:#?}");
    let counted = problems.iter().find(|problem| problem.text.contains("the VMs of the source user have "));
    assert!(counted.is_some_and(|counted| counted.text.contains(" more problems")));
    host.has(&[("user/good", "runnable")]);
}

#[test]
fn no_share_reaches_another_source_or_what_is_installed() {
    let host = host();
    let media = host.root.join("media");
    let second = Partition::at(&media.join("second"));
    second.vm("victim").image("root.img", b"");
    VmDirectory::at(&media.join("builtin/own")).image("root.img", b"");
    let state = media.join("state");
    fs::create_dir_all(media.join("builtin-2")).unwrap();
    let allow = format!("allow = ['/media={}']\n", media.display());
    let builtin =
        format!("[[source]]\nkind = 'builtin'\nname = 'builtin'\npath = '{}/builtin'\n", media.display());
    let more = allow + &builtin + &crate::sync_host::source("second", &second.root);
    host.configure(&more);
    let vm = host.vm("vm").directory("shared-dirs/s");
    let link = |target: &str| {
        let _ = fs::remove_file(vm.path.join("shared-dirs/s/dir"));
        symlink(target, vm.path.join("shared-dirs/s/dir")).unwrap();
    };
    link("/media/builtin-2");
    run(&mut host.sync_to(&state)).exits(0).warns_of_nothing();
    for (target, what) in [
        ("/media", "of the source builtin"),
        ("/media/builtin", "of the source builtin"),
        ("/media/builtin/own/blk", "of the source builtin"),
        ("/media/second/svc", "of the source second"),
        ("/media/state", "the state directory"),
        ("/media/state/.microvm-spectrum/packages", "the state directory"),
    ] {
        link(target);
        let ran = run(&mut host.sync_to(&state)).exits(1);
        let entry = vm.path.join("shared-dirs/s/dir");
        ran.complains(&[&format!("error: {}: leads to {}", entry.display(), media.display()), what]);
        let catalog = crate::sync_host::catalog(&state);
        assert_eq!(catalog["vms"].as_array().unwrap().iter().filter(|vm| vm["state"] == "broken").count(), 1);
    }
}
