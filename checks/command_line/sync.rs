// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `sync`: what it makes of the sources in the state directory, and what it
//! leaves alone there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::program::{Ran, build, check, parse, run};
use crate::support::tree::{self, Node, Tree, assert_same};
use crate::support::vm_directory::{Partition, make_fifo};
use crate::sync_host::{Host, beneath, host, id_of, plain_directory, touched};

impl Host {
    /// Notes that a VM runs, from the package that it would start from now.
    fn boots(&self, name: &str) -> PathBuf {
        let package = self.state.join(name).join("current").canonicalize().unwrap();
        symlink(&package, self.state.join(name).join("booted")).unwrap();
        package
    }

    /// Notes that a VM has ended.
    fn ends(&self, name: &str) {
        fs::remove_file(self.state.join(name).join("booted")).unwrap();
    }
}

/// The one problem that was reported, as path and cause.
#[track_caller]
fn one_problem(ran: &Ran) -> String {
    let (problems, rest) = parse(&ran.stderr);
    let ([only], []) = (problems.as_slice(), rest.as_slice()) else { panic!("{}", ran.stderr) };
    format!("{}: {}\n{}", only.severity, only.text, only.help)
}

/// What the catalog is to say of a file.
fn stamp(vm: &Path, entry: &str) -> serde_json::Value {
    use std::os::unix::fs::MetadataExt as _;
    let found = vm.join(entry).metadata().unwrap();
    let time = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    json!({
        "entry": entry, "device": found.dev(), "inode": found.ino(), "size": found.len(),
        "modified": time(found.mtime(), found.mtime_nsec()), "changed": time(found.ctime(), found.ctime_nsec()),
    })
}

#[test]
fn the_whole_state_directory() {
    let host = host();
    let a = host.vm("a").provider("b");
    host.vm("b");
    host.synced();
    let (first, second) = (host.in_catalog("user/a"), host.in_catalog("user/b"));
    let stamps = |vm: &Path| ["vmlinux", "blk/root.img"].map(|entry| stamp(vm, entry));
    let second_directory = host.partition.root.join("svc/data/b");
    assert_eq!(
        host.catalog(),
        json!({"version": 1, "generation": 1, "leases": [], "sources": [
            {"name": "user", "kind": "user-partition", "directory": host.partition.root.join("svc/data")},
        ], "vms": [
            {"name": "a", "source": "user", "directory": a.path, "state": "runnable", "uid": 70000,
             "hypervisor": "cloud-hypervisor", "package": first["package"], "autostart": false,
             "links": [{"provider": "b", "id": "7e18", "ipv4": "100.64.126.24"}], "files": stamps(&a.path)},
            {"name": "b", "source": "user", "directory": second_directory,
             "state": "runnable", "uid": 70001, "hypervisor": "cloud-hypervisor",
             "package": second["package"], "autostart": false, "links": [],
             "files": stamps(&second_directory)},
        ]})
    );
    let link = |target: &str| Node::Link(target.into());
    let package = |vm: &serde_json::Value| format!("../../../packages/{}", vm["package"].as_str().unwrap());
    let file = |mode, path: &str| Node::File { mode, content: fs::read(host.own(path)).unwrap() };
    let expected: Tree = [
        ("", plain_directory()),
        (".microvm-spectrum", plain_directory()),
        (".microvm-spectrum/current", link("generations/1")),
        (".microvm-spectrum/generations", plain_directory()),
        (".microvm-spectrum/generations/1", plain_directory()),
        (".microvm-spectrum/generations/1/catalog.json", file(0o644, "current/catalog.json")),
        (".microvm-spectrum/generations/1/vms", plain_directory()),
        (".microvm-spectrum/generations/1/vms/a", link(&package(&first))),
        (".microvm-spectrum/generations/1/vms/b", link(&package(&second))),
        (".microvm-spectrum/leases.json", file(0o644, "leases.json")),
        (".microvm-spectrum/packages", plain_directory()),
        ("a", plain_directory()),
        ("a/current", link("../.microvm-spectrum/current/vms/a")),
        ("b", plain_directory()),
        ("b/current", link("../.microvm-spectrum/current/vms/b")),
    ]
    .into_iter()
    .map(|(path, node)| (path.into(), node))
    .collect();
    let mut found = tree::read(&host.state);
    // Whose mode is the lock's own matter.
    found.remove(Path::new(".microvm-spectrum/lock")).unwrap();
    let packages = Path::new(".microvm-spectrum/packages");
    found.retain(|path, _| path == packages || !path.starts_with(packages));
    assert_same(&expected, &found, "the state directory");
    // Each package is the one that `build` makes of the directory.
    for name in ["a", "b"] {
        let output = host.root.join("built").join(name);
        fs::create_dir_all(output.parent().unwrap()).unwrap();
        let directory = host.partition.root.join("svc/data").join(name);
        run(&mut build(&directory, &output, "cloud-hypervisor")).exits(0);
        let found = tree::read(&host.state.join(name).join("current").canonicalize().unwrap());
        assert_same(&tree::read(&output), &found, name);
    }
}

#[test]
fn without_a_change_nothing_is_touched() {
    let host = host();
    host.vm("a");
    host.vm("b").file("wayland", b"");
    host.vm("c");
    run(&mut host.sync()).exits(1);
    host.boots("c");
    run(&mut host.sync()).exits(1);
    let before = touched(&host.state);
    assert!(before.len() > 30);
    for _ in 0..2 {
        run(&mut host.sync()).exits(1);
        assert_eq!(before, touched(&host.state));
    }
    // Nor by a comment, or another order of the configuration.
    let text = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, format!("# comment\n[vm]\n{text}")).unwrap();
    run(&mut host.sync()).exits(1);
    assert_eq!(before, touched(&host.state));
    host.is_whole();
}

#[test]
fn only_what_changed_is_made_anew() {
    let host = host();
    let vm = host.vm("a");
    host.vm("b");
    host.synced();
    let (before, package) = (touched(&host.state), host.package("user/a"));
    let other = host.package("user/b");
    vm.image("second.img", b"");
    host.synced();
    assert_eq!(host.generation(), 2);
    assert_ne!(host.package("user/a"), package);
    assert!(!package.exists(), "what nothing names is removed");
    assert_eq!(host.package("user/b"), other);
    let after = touched(&host.state);
    let kept = other.strip_prefix(&host.state).unwrap();
    for path in before.keys().filter(|path| path.starts_with(kept) || !path.starts_with(".microvm-spectrum"))
    {
        assert_eq!(before[path], after[path], "{} was touched", path.display());
    }
    // A setting is a change; and there and back is a new generation, too.
    for (memory, generation) in [("[vm.b]\nmemory = 64\n", 3), ("", 4)] {
        host.configure(memory);
        host.synced();
        assert_eq!(host.generation(), generation);
    }
    assert_eq!(host.package("user/b"), other);
    // What only systemd has to know is one.
    host.configure("[vm.b]\nautostart = true\n");
    host.synced();
    assert_eq!((host.generation(), host.package("user/b")), (5, other));
    assert_eq!(host.in_catalog("user/b")["autostart"], true);
}

#[test]
fn the_package_of_a_vm_that_runs_is_kept() {
    let host = host();
    let vm = host.vm("a");
    host.synced();
    let (booted, whole) = (host.boots("a"), tree::read(&host.package("user/a")));
    for image in ["second.img", "third.img"] {
        host.vm("a").image(image, b"");
        host.synced();
        assert_ne!(host.package("user/a"), booted);
        assert_same(&whole, &tree::read(&booted), "what it runs from");
        assert_eq!(tree::names(&host.own("packages")).len(), 2);
    }
    // Also when the VM is gone, or has errors, until it ends.
    let directory = vm.path.clone();
    vm.file("wayland", b"");
    run(&mut host.sync()).exits(1);
    assert_same(&whole, &tree::read(&booted), "of a VM with errors");
    fs::remove_dir_all(directory).unwrap();
    host.synced();
    host.has(&[]);
    assert_same(&whole, &tree::read(&booted), "of a VM that is gone");
    assert_eq!(tree::names(&host.state.join("a")), ["booted", "current"]);
    host.ends("a");
    host.synced();
    assert_eq!(tree::names(&host.state), [".microvm-spectrum"]);
    assert_eq!(tree::names(&host.own("packages")), [""; 0]);
}

#[test]
fn a_package_that_is_started_from_again_is_not_written_again() {
    let host = host();
    host.vm("a");
    host.synced();
    let booted = host.boots("a");
    let before = touched(&booted);
    host.configure("[vm.a]\nmemory = 64\n");
    host.synced();
    host.configure("");
    host.synced();
    assert_eq!(host.package("user/a").canonicalize().unwrap(), booted);
    assert_eq!(before, touched(&booted));
}

#[test]
fn a_vm_that_goes_leaves_its_lease_and_gets_it_again() {
    let host = host();
    for name in ["a", "b", "c"] {
        host.vm(name);
    }
    host.synced();
    let uid = host.uid("user/b");
    let directory = host.partition.root.join("svc/data/b");
    fs::rename(&directory, host.root.join("away")).unwrap();
    host.synced();
    host.has(&[("user/a", "runnable"), ("user/c", "runnable")]);
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "c"]);
    assert_eq!(host.leases()["user/b"], uid);
    // Who comes meanwhile gets another.
    host.vm("d");
    host.synced();
    assert!(host.uid("user/d") > host.uid("user/c") && host.uid("user/d") != uid);
    fs::rename(host.root.join("away"), &directory).unwrap();
    host.synced();
    assert_eq!(host.uid("user/b"), uid);
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "b", "c", "d"]);
}

#[test]
fn what_else_is_in_a_vms_folder_is_kept() {
    let host = host();
    let precious = host.state.join("a/precious.img");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "precious").unwrap();
    fs::create_dir(host.state.join("other")).unwrap();
    host.vm("a");
    host.synced();
    assert_eq!(tree::names(&host.state.join("a")), ["current", "precious.img"]);
    fs::remove_dir_all(host.partition.root.join("svc/data/a")).unwrap();
    host.synced();
    assert_eq!(tree::names(&host.state.join("a")), ["precious.img"]);
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "other"]);
}

#[test]
fn of_two_vms_with_one_name_the_first_sources_runs() {
    let host = host();
    let second = Partition::at(&host.root.join("second"));
    host.vm("both").image("first.img", b"");
    second.vm("both").image("root.img", b"");
    second.vm("only").image("root.img", b"");
    let order = |sources: &[&str]| {
        let path = |name: &str| if name == "user" { &host.partition.root } else { &second.root };
        let sources: Vec<_> = sources.iter().map(|name| (*name, path(name).as_path())).collect();
        host.configure_sources(&sources, "[vm.'second/both']\nmemory = 64\nautostart = true\n");
    };
    order(&["user", "second"]);
    host.synced();
    host.has(&[("user/both", "runnable"), ("second/both", "shadowed"), ("second/only", "runnable")]);
    assert_eq!(host.in_catalog("second/both")["by"], "user");
    // It inherits nothing, not even a lease.
    assert_eq!(host.in_catalog("user/both")["autostart"], false);
    assert_eq!(host.leases().into_keys().collect::<Vec<_>>(), ["second/only", "user/both"]);
    let before = host.leases();
    // Also a VM with errors shadows: its name does not become another VM's.
    host.vm("both").file("wayland", b"");
    run(&mut host.sync()).exits(1);
    host.has(&[("user/both", "broken"), ("second/both", "shadowed"), ("second/only", "runnable")]);
    order(&["second", "user"]);
    host.synced();
    host.has(&[("second/both", "runnable"), ("user/both", "shadowed"), ("second/only", "runnable")]);
    let after = host.leases();
    assert!(before.values().all(|uid| *uid != after["second/both"]), "{before:?} {after:?}");
    assert_eq!(after["user/both"], before["user/both"]);
    assert_eq!(host.in_catalog("second/both")["autostart"], true);
    assert_eq!(fs::read_dir(host.own("packages")).unwrap().count(), 2);
}

#[test]
fn three_sources_and_one_name() {
    let host = host();
    let others = ["two", "three"].map(|name| Partition::at(&host.root.join(name)));
    host.vm("x");
    for other in &others {
        other.vm("x").image("root.img", b"");
    }
    host.configure_sources(
        &[("user", &host.partition.root), ("two", &others[0].root), ("three", &others[1].root)],
        "",
    );
    host.synced();
    host.has(&[("user/x", "runnable"), ("two/x", "shadowed"), ("three/x", "shadowed")]);
    assert_eq!(host.in_catalog("three/x")["by"], "user");
}

#[test]
fn a_broken_vm_keeps_nobody_out() {
    let host = host();
    host.vm("a");
    let broken = host.partition.vm("broken").kernel(b"\x1f\x8b").share("tag", "/nowhere");
    host.vm("z");
    let ran = run(&mut host.sync()).exits(1);
    let (problems, rest) = parse(&ran.stderr);
    assert_eq!((problems.len(), rest.len()), (3, 0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "new user/a\nbroken user/broken\nnew user/z\n");
    assert!(problems.iter().all(|p| p.severity == "error"));
    assert!(problems.iter().all(|p| p.text.starts_with(broken.path.to_str().unwrap())), "{problems:?}");
    host.is_whole();
    host.has(&[("user/a", "runnable"), ("user/broken", "broken"), ("user/z", "runnable")]);
    // The catalog knows the same of it.
    let told = host.in_catalog("user/broken")["problems"].clone();
    let told: Vec<_> = told.as_array().unwrap().iter().collect();
    assert_eq!(told.len(), 3);
    for (problem, printed) in told.iter().zip(&problems) {
        let text = |key: &str| problem[key].as_str().unwrap();
        assert_eq!(format!("{}: {}", text("path"), text("cause")), printed.text);
        assert_eq!(text("remedy"), printed.help);
    }
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "z"]);
    assert_eq!(host.leases().len(), 2, "who cannot run needs no user");
    // Once it is repaired, it is installed; and when it breaks, it is not any more.
    fs::remove_dir_all(&broken.path).unwrap();
    let repaired = host.vm("broken");
    host.synced();
    let uid = host.uid("user/broken");
    repaired.file("wayland", b"");
    run(&mut host.sync()).exits(1);
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a", "z"]);
    assert_eq!(host.leases()["user/broken"], uid);
    host.is_whole();
}

#[test]
fn a_name_that_no_vm_can_have() {
    let host = host();
    host.vm("good");
    let long = "n".repeat(65);
    for (name, why) in [
        ("a b", "cannot contain the character ' '"),
        (".hidden", "cannot begin with '.'"),
        ("-rf", "cannot begin with '-'"),
        ("a%i", "cannot contain the character '%'"),
        ("ü", "cannot contain the character 'ü'"),
        (long.as_str(), "the name has 65 bytes"),
    ] {
        let vm = host.vm(name);
        let problem = one_problem(&run(&mut host.sync()).exits(1));
        let start = format!("error: {}: ", vm.path.display());
        assert!(problem.starts_with(&start) && problem.contains(why), "{problem}");
        assert!(problem.contains("rename the directory"), "{problem}");
        host.has(&[("user/good", "runnable")]);
        host.is_whole();
        fs::remove_dir_all(&vm.path).unwrap();
    }
    // The longest name that one can have.
    let longest = "n".repeat(64);
    host.vm(&longest);
    host.synced();
    host.has(&[("user/good", "runnable"), (&format!("user/{longest}"), "runnable")]);
}

#[test]
fn a_source_that_is_not_there() {
    let host = host();
    host.vm("a");
    let missing = host.root.join("missing");
    host.configure_sources(&[("user", &host.partition.root), ("stick", &missing)], "");
    let problem = one_problem(&run(&mut host.sync()).exits(0));
    let start =
        format!("note: {}/svc/data: the source stick cannot be read: No such file", missing.display());
    assert!(problem.starts_with(&start) && problem.contains("mount its file system"), "{problem}");
    host.has(&[("user/a", "runnable")]);
    host.is_whole();
    // It appears and disappears; its VMs come and go, and keep their users.
    Partition::at(&missing).vm("b").image("root.img", b"");
    host.synced();
    host.has(&[("user/a", "runnable"), ("stick/b", "runnable")]);
    let uid = host.uid("stick/b");
    fs::rename(&missing, host.root.join("pulled")).unwrap();
    one_problem(&run(&mut host.sync()).exits(0));
    // It is not forgotten, and the reason is there to be read.
    host.has(&[("user/a", "runnable"), ("stick/b", "unavailable")]);
    let why = host.in_catalog("stick/b")["problems"][0]["cause"].clone();
    assert!(why.as_str().unwrap().contains("the source stick cannot be read"), "{why}");
    assert_eq!(tree::names(&host.state), [".microvm-spectrum", "a"]);
    host.is_whole();
    fs::rename(host.root.join("pulled"), &missing).unwrap();
    host.synced();
    assert_eq!(host.uid("stick/b"), uid);
    // A file in its place, or in that of its directory, is no better.
    for directory in [missing.join("svc/data"), missing.join("svc"), missing.clone()] {
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        let problem = one_problem(&run(&mut host.sync()).exits(0));
        assert!(problem.contains("the source stick cannot be read: Not a directory"), "{problem}");
        fs::remove_file(&directory).unwrap();
    }
}

#[test]
fn what_is_no_vm_directory_gets_a_note() {
    let host = host();
    host.vm("a");
    let data = host.partition.root.join("svc/data");
    fs::write(data.join("file"), "").unwrap();
    make_fifo(&data.join("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    let ran = run(&mut host.sync()).exits(0);
    let (problems, _) = parse(&ran.stderr);
    let told: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.severity, p.text)).collect();
    let expected = ["fifo", "file", "socket"]
        .map(|name| format!("note: {}: is not a VM directory; it is ignored", data.join(name).display()));
    assert_eq!(told, expected);
    host.has(&[("user/a", "runnable")]);
}

#[test]
fn a_vm_that_is_a_link() {
    let host = host();
    host.vm("real");
    let data = host.partition.root.join("svc/data");
    symlink("real", data.join("alias")).unwrap();
    host.synced();
    host.has(&[("user/alias", "runnable"), ("user/real", "runnable")]);
    assert_ne!(host.uid("user/alias"), host.uid("user/real"));
    for (name, target, why) in [
        ("away", "/etc", "leads to '/etc', outside of the places where links may lead"),
        ("nowhere", "none", "does not exist"),
        ("round", "round", "follows more than 40 links"),
        ("file", "../../file", "not a directory"),
    ] {
        fs::write(host.partition.root.join("file"), "").unwrap();
        symlink(target, data.join(name)).unwrap();
        run(&mut host.sync()).exits(1).complains(&[data.join(name).to_str().unwrap(), why]);
        assert_eq!(host.in_catalog(&format!("user/{name}"))["state"], "broken");
        fs::remove_file(data.join(name)).unwrap();
    }
}

#[test]
fn the_folder_of_a_vm_that_another_program_installed() {
    let host = host();
    let folder = host.state.join("theirs");
    fs::create_dir_all(&folder).unwrap();
    let store = host.root.join("store");
    fs::create_dir(&store).unwrap();
    for (what, make) in [
        ("a link to elsewhere", (|current, store| symlink(store, current).unwrap()) as fn(&Path, &Path)),
        ("a dangling link", |current, _| symlink("/nix/store/none", current).unwrap()),
        ("another VM's link", |current, _| {
            symlink("../.microvm-spectrum/current/vms/mine", current).unwrap();
        }),
        ("a directory", |current, _| fs::create_dir(current).unwrap()),
        ("a file", |current, _| fs::write(current, "").unwrap()),
    ] {
        make(&folder.join("current"), &store);
        host.vm("mine");
        let vm = host.vm("theirs");
        let before = touched(&folder);
        let problem = one_problem(&run(&mut host.sync()).exits(1));
        let start =
            format!("error: {}: belongs to a VM that another program has installed", folder.display());
        assert!(problem.starts_with(&start) && problem.contains("user/theirs"), "{what}: {problem}");
        host.has(&[("user/mine", "runnable"), ("user/theirs", "broken")]);
        assert_eq!(before, touched(&folder), "{what}");
        host.is_whole();
        // Nor is it touched when there is no such VM.
        fs::remove_dir_all(&vm.path).unwrap();
        host.synced();
        assert_eq!(before, touched(&folder), "{what}");
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
    }
    host.vm("theirs");
    host.synced();
    host.has(&[("user/mine", "runnable"), ("user/theirs", "runnable")]);
    // A file in the folder's place is no VM's folder.
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "precious").unwrap();
    run(&mut host.sync()).exits(1).complains(&[folder.to_str().unwrap()]);
    host.has(&[("user/mine", "runnable"), ("user/theirs", "broken")]);
    assert_eq!(fs::read_to_string(&folder).unwrap(), "precious");
}

#[test]
fn a_catalog_that_cannot_be_used_is_made_anew() {
    let host = host();
    host.vm("a");
    host.vm("b");
    host.synced();
    let (catalog, current) = (host.own("current/catalog.json"), host.own("current"));
    let text = fs::read_to_string(&catalog).unwrap();
    let whole = host.catalog()["vms"].clone();
    type Damage<'a> = (&'a str, &'a dyn Fn());
    let damages: [Damage<'_>; 9] = [
        ("empty", &|| fs::write(host.own("current/catalog.json"), "").unwrap()),
        ("cut short", &|| fs::write(host.own("current/catalog.json"), &text[..text.len() / 2]).unwrap()),
        ("not UTF-8", &|| fs::write(host.own("current/catalog.json"), b"\xff").unwrap()),
        ("of another version", &|| {
            let other = text.replace("\"version\": 1", "\"version\": 2");
            fs::write(host.own("current/catalog.json"), other).unwrap();
        }),
        ("gone", &|| fs::remove_file(host.own("current/catalog.json")).unwrap()),
        ("its generation gone", &|| fs::remove_dir_all(host.own("generations")).unwrap()),
        ("the link gone", &|| fs::remove_file(&current).unwrap()),
        ("the link elsewhere", &|| {
            fs::remove_file(&current).unwrap();
            symlink("/nowhere", &current).unwrap();
        }),
        ("a package gone", &|| fs::remove_dir_all(host.package("user/a")).unwrap()),
    ];
    for (what, damage) in damages {
        let (before, uids) = (host.generation(), [host.uid("user/a"), host.uid("user/b")]);
        damage();
        let packages = touched(&host.own("packages"));
        let is_linked = host.own("current/vms").is_dir();
        host.synced();
        assert_eq!(host.catalog()["vms"], whole, "{what}");
        // What may be running from is not written again.
        assert!(
            !is_linked || what == "a package gone" || touched(&host.own("packages")) == packages,
            "{what}"
        );
        assert_eq!([host.uid("user/a"), host.uid("user/b")], uids, "{what}");
        if what != "its generation gone" {
            assert_eq!(host.generation(), before + 1, "{what}");
        }
    }
}

#[test]
fn what_was_not_finished_is_removed() {
    let host = host();
    host.vm("a");
    host.synced();
    let (package, whole) = (host.package("user/a"), tree::read(&host.package("user/a")));
    // A package and a generation of a sync that was killed, under names that come next.
    host.configure("[vm.a]\nmemory = 64\n");
    host.synced();
    fs::create_dir_all(package.join("bin")).unwrap();
    fs::write(package.join("bin/microvm-run"), "half").unwrap();
    fs::create_dir_all(host.own("generations/3/vms")).unwrap();
    fs::create_dir_all(host.own("generations/17")).unwrap();
    host.configure("");
    host.synced();
    assert_eq!(host.generation(), 18, "a number of its own");
    assert_same(&whole, &tree::read(&package), "the package");
}

#[test]
fn vms_are_in_order_whatever_the_sources_order() {
    let host = host();
    for name in ["b10", "a", "Z", "b9", "_", "a.b", "a-b"] {
        host.vm(name);
    }
    host.synced();
    let catalog = host.catalog();
    let found: Vec<_> = catalog["vms"].as_array().unwrap().iter().map(id_of).collect();
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(found, sorted);
    assert_eq!(found.len(), 7);
    let tree = tree::read(&host.state);
    assert_eq!(beneath(&tree, "a.b").len(), 2);
}

#[test]
fn the_package_of_a_vm_that_runs_is_kept_whatever_leads_to_it() {
    let host = host();
    host.vm("a");
    let link = host.root.join("link");
    symlink(&host.state, &link).unwrap();
    fs::create_dir(host.root.join("beside")).unwrap();
    host.synced();
    let booted = host.boots("a");
    for (state, memory) in
        [(&link, 64), (&host.root.join("beside/../state"), 128), (&host.root.join("link/."), 256)]
    {
        host.configure(&format!("[vm.a]\nmemory = {memory}\n"));
        run(&mut host.sync_to(state)).exits(0).warns_of_nothing();
        assert!(booted.join("bin/microvm-run").exists(), "{}", state.display());
        assert_eq!(tree::names(&host.own("packages")).len(), 2);
    }
}

#[test]
fn a_package_that_is_gone_is_not_taken_for_one() {
    let host = host();
    host.vm("a");
    host.synced();
    // Noted by a VM that ran when everything was removed, or when the host crashed.
    host.boots("a");
    fs::remove_dir_all(host.own("")).unwrap();
    host.synced();
    assert!(host.state.join("a/current/bin/microvm-run").exists());
}

#[test]
fn a_shadowed_vm_does_not_take_over_because_a_source_went_away() {
    let host = host();
    let second = Partition::at(&host.root.join("second"));
    for name in ["both", "broken", "late"] {
        host.vm(name);
        second.vm(name).image("root.img", b"");
    }
    let late = second.root.join("svc/data/late");
    fs::rename(&late, host.root.join("late")).unwrap();
    host.vm("broken").file("wayland", b"");
    host.configure_sources(&[("user", &host.partition.root), ("second", &second.root)], "");
    run(&mut host.sync()).exits(1);
    let (data, away) = (host.partition.root.join("svc/data"), host.root.join("away"));
    fs::rename(&data, &away).unwrap();
    // However often, and also one that comes only now.
    for round in 0..3 {
        one_problem(&run(&mut host.sync()).exits(0));
        let mut expected = vec![
            ("user/both", "unavailable"),
            ("second/both", "shadowed"),
            ("user/broken", "unavailable"),
            ("second/broken", "shadowed"),
            ("user/late", "unavailable"),
        ];
        if round > 0 {
            expected.push(("second/late", "shadowed"));
        } else {
            fs::rename(host.root.join("late"), &late).unwrap();
        }
        host.has(&expected);
        assert_eq!(tree::names(&host.state), [".microvm-spectrum"]);
        host.is_whole();
    }
    // A later source that goes away changes nothing, and takes nothing with it.
    fs::rename(&away, &data).unwrap();
    run(&mut host.sync()).exits(1);
    fs::rename(&second.root, &away).unwrap();
    run(&mut host.sync()).exits(1);
    let states = host.states();
    assert_eq!(states.iter().filter(|(_, state)| state == "runnable").count(), 2);
    assert_eq!(states.iter().filter(|(_, state)| state == "shadowed").count(), 3);
    // Without it in the configuration, the way is free.
    host.configure_sources(&[("second", &away)], "");
    host.synced();
    host.has(&[("second/both", "runnable"), ("second/broken", "runnable"), ("second/late", "runnable")]);
}

#[test]
fn a_folder_that_cannot_be_one_is_the_matter_of_one_vm() {
    let host = host();
    for name in ["a", "b", "c"] {
        host.vm(name);
    }
    fs::create_dir(&host.state).unwrap();
    symlink("/nowhere", host.state.join("b")).unwrap();
    let problem = one_problem(&run(&mut host.sync()).exits(1));
    let start = format!(
        "error: {}: belongs to a VM that another program has installed",
        host.state.join("b").display()
    );
    assert!(problem.starts_with(&start), "{problem}");
    host.has(&[("user/a", "runnable"), ("user/b", "broken"), ("user/c", "runnable")]);
    assert!(["a", "c"].iter().all(|name| host.state.join(name).join("current/bin/microvm-run").exists()));
    assert_eq!(fs::read_link(host.state.join("b")).unwrap(), Path::new("/nowhere"));
    // A link that leads to a directory is as good as one.
    fs::remove_file(host.state.join("b")).unwrap();
    fs::create_dir(host.root.join("elsewhere")).unwrap();
    symlink(host.root.join("elsewhere"), host.state.join("b")).unwrap();
    fs::write(host.root.join("elsewhere/precious"), "").unwrap();
    run(&mut host.sync()).exits(0);
    host.has(&[("user/a", "runnable"), ("user/b", "runnable"), ("user/c", "runnable")]);
}

#[test]
fn what_killed_programs_left_is_removed() {
    let host = host();
    host.vm("a");
    host.vm("gone");
    host.synced();
    let (a, gone) = (host.state.join("a"), host.state.join("gone"));
    for folder in [host.own(""), a.clone(), gone.clone()] {
        for name in [".current.4242.tmp", ".booted.1.tmp", ".leases.json.17.tmp"] {
            symlink("generations/4", folder.join(name)).unwrap();
        }
    }
    // What only looks like it belongs to another program.
    for name in [".current.tmp", "current.1.tmp", ".x.y.tmp", ".swp"] {
        fs::write(a.join(name), "precious").unwrap();
    }
    fs::remove_dir_all(host.partition.root.join("svc/data/gone")).unwrap();
    host.synced();
    assert_eq!(tree::names(&a), [".current.tmp", ".swp", ".x.y.tmp", "current", "current.1.tmp"]);
    assert!(!gone.exists());
}

#[test]
fn a_directory_is_refused_in_the_words_of_check() {
    let host = host();
    let vm = host.vm("vm").kernel(b"\x1f\x8b").image_link("x.img", "/dev/sda").share("tag", "/ext");
    let vm = vm.provider("vm").file("wayland", b"");
    let checked = run(&mut check(&vm.path)).exits(1);
    let told = run(&mut host.sync()).exits(1).stderr;
    assert_eq!(parse(&told).0, checked.problems());
    // Together with what is wrong with the settings.
    host.configure("[vm.vm]\nmemory = 1\n");
    let told = run(&mut host.sync()).exits(1).stderr;
    assert_eq!(parse(&told).0.len(), checked.problems().len() + 1);
}

#[test]
fn a_package_that_is_damaged_is_mended() {
    let host = host();
    host.vm("a");
    host.synced();
    let package = host.package("user/a");
    let whole = tree::read(&package);
    let manifest = package.join("share/microvm-spectrum/manifest.json");
    let script = package.join("bin/microvm-run");
    let text = fs::read_to_string(&manifest).unwrap();
    let damages: [&dyn Fn(); 6] = [
        &|| fs::write(&manifest, "").unwrap(),
        &|| fs::write(&manifest, text.replace("vmlinux", "vmlinuz")).unwrap(),
        &|| fs::remove_file(&script).unwrap(),
        &|| fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap(),
        &|| {
            fs::remove_file(package.join("share/microvm/system")).unwrap();
            symlink("elsewhere", package.join("share/microvm/system")).unwrap();
        },
        &|| fs::remove_dir_all(package.join("bin")).unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        host.synced();
        assert_eq!(host.generation(), 1, "{number}");
        assert_same(&whole, &tree::read(&package), &number.to_string());
    }
}
