// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags};

use super::*;
use crate::directory::known::{Moment, Tree};

/// Two VMs with all that a definition can have, and one that is a link.
struct Fixture {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

fn fixture() -> Fixture {
    // In memory, where times tell every change, whatever the disk's file system is.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = dir.path().canonicalize().unwrap().join("p");
    for name in ["a", "b"] {
        let vm = root.join("svc/data").join(name);
        for directory in ["blk", "shared-dirs/files", "providers/net"] {
            fs::create_dir_all(vm.join(directory)).unwrap();
        }
        fs::create_dir_all(root.join("shares").join(name)).unwrap();
        symlink("/ext/img/vmlinux", vm.join("vmlinux")).unwrap();
        symlink("/ext/img/root.img", vm.join("blk/root.img")).unwrap();
        symlink(format!("/ext/shares/{name}"), vm.join("shared-dirs/files/dir")).unwrap();
        fs::write(vm.join("providers/net/net"), "").unwrap();
    }
    fs::create_dir_all(root.join("elsewhere/c/blk")).unwrap();
    symlink("/ext/elsewhere/c", root.join("svc/data/c")).unwrap();
    fs::create_dir(root.join("img")).unwrap();
    fs::write(root.join("img/vmlinux"), kernel(b'-')).unwrap();
    fs::write(root.join("img/root.img"), [0; 512]).unwrap();
    Fixture { _dir: dir, root }
}

/// A kernel, and how it differs from others.
fn kernel(mark: u8) -> [u8; 64] {
    let mut head = [mark; 64];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    head[18..20].copy_from_slice(&[62, 0]);
    head
}

impl Fixture {
    fn location(&self, name: &str) -> Location {
        Location::find(&self.root.join("svc/data").join(name), None, &[]).unwrap()
    }

    /// What a scan at this moment remembers.
    fn remembered(&self, moment: Moment) -> (Memory, Tree) {
        let notes = Rc::new(RefCell::new(Notes::new(moment)));
        let scan = Scan::new(Architecture::X86_64).noting(Some(Rc::clone(&notes)));
        let mut memory = Memory::new(Architecture::X86_64);
        for name in ["a", "b"] {
            let location = self.location(name);
            let reading = scan.read(&location);
            assert!(reading.definition.is_some(), "{:?}", reading.problems.into_sorted());
            if let Some(remembered) = reading.remembered {
                memory.remember(&location, *remembered);
            }
        }
        memory.finish(&scan, None, &mut notes.borrow_mut());
        let tree = notes.borrow_mut().take_tree();
        (memory, tree)
    }

    /// The same, when everything has been as it is for some time.
    fn settled(&self) -> (Memory, Tree) {
        let known = self.remembered(Moment::now().unwrap().later(10, false));
        assert_eq!(known.0.count(), 2);
        // What changes from now on has another time.
        let probe = self.root.with_file_name("probe");
        let time = || {
            fs::write(&probe, "").unwrap();
            let found = probe.metadata().unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        let now = time();
        while time() == now {}
        known
    }

    /// Whether the VMs `a` and `b` count as unchanged.
    fn unchanged(&self, (memory, tree): &(Memory, Tree)) -> [bool; 2] {
        let memory = memory.clone().ready(Architecture::X86_64).unwrap();
        let (look, scan) = (Look::new(tree.clone()), Scan::new(Architecture::X86_64));
        ["a", "b"].map(|name| {
            let known = memory.unchanged(&self.location(name), &look, &scan);
            if let Some(known) = &known {
                let read = Scan::new(Architecture::X86_64).read(&self.location(name));
                assert_eq!(known.definition, read.definition);
            }
            known.is_some()
        })
    }
}

fn replace(path: &Path, by: impl FnOnce(&Path)) {
    let new = path.with_file_name("new");
    by(&new);
    fs::rename(new, path).unwrap();
}

/// Changes a file, and puts back the time that everyone can set.
fn with_time_put_back(path: &Path, change: impl FnOnce()) {
    let before: SystemTime = path.metadata().unwrap().modified().unwrap();
    change();
    fs::File::open(path).unwrap().set_modified(before).unwrap();
    assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
}

#[test]
fn whatever_changes_is_read_again() {
    type Change = fn(&Path);
    // Each with the VMs that count as unchanged afterwards.
    let changes: [(&str, Change, [bool; 2]); 19] = [
        ("nothing", |_| {}, [true; 2]),
        ("what is beside it", |root| fs::write(root.join("img/beside"), "").map(drop).unwrap(), [false; 2]),
        (
            "a kernel of the same size and time",
            |root| {
                let path = root.join("img/vmlinux");
                with_time_put_back(&path, || fs::write(&path, kernel(b'+')).unwrap());
            },
            [false; 2],
        ),
        (
            "an image in the place of the same",
            |root| replace(&root.join("img/root.img"), |new| fs::write(new, [0; 512]).unwrap()),
            [false; 2],
        ),
        (
            "a link in the place of the same",
            |root| {
                let link = root.join("svc/data/a/vmlinux");
                replace(&link, |new| symlink("/ext/img/vmlinux", new).unwrap());
            },
            [false, true],
        ),
        (
            "two links that changed places",
            |root| {
                let links = ["vmlinux", "blk/root.img"].map(|name| root.join("svc/data/a").join(name));
                let [one, other] = &links;
                rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
            },
            [false, true],
        ),
        (
            "a link in the place of a directory",
            |root| {
                let vm = root.join("svc/data/a");
                fs::rename(vm.join("blk"), root.join("blk")).unwrap();
                symlink("../../../blk", vm.join("blk")).unwrap();
            },
            [false; 2],
        ),
        (
            "a directory in the place of one with the same files",
            |root| {
                let (tags, files) = (root.join("svc/data/a/shared-dirs"), root.join("svc/data/a/files"));
                fs::create_dir(&files).unwrap();
                fs::rename(tags.join("files/dir"), files.join("dir")).unwrap();
                fs::remove_dir(tags.join("files")).unwrap();
                fs::rename(files, tags.join("files")).unwrap();
            },
            [false, true],
        ),
        (
            "a link to the directory itself in its place",
            |root| {
                fs::rename(root.join("svc/data/a"), root.join("a")).unwrap();
                symlink("../../a", root.join("svc/data/a")).unwrap();
            },
            [false; 2],
        ),
        (
            "a mode",
            |root| fs::set_permissions(root.join("img/root.img"), Permissions::from_mode(0o600)).unwrap(),
            [false; 2],
        ),
        (
            "the mode of a directory that leads there",
            |root| fs::set_permissions(root.parent().unwrap(), Permissions::from_mode(0o711)).unwrap(),
            [false; 2],
        ),
        ("a window", |root| fs::write(root.join("svc/data/a/wayland"), "").unwrap(), [false, true]),
        (
            "an image with the directory's time put back",
            |root| {
                let blk = root.join("svc/data/a/blk");
                with_time_put_back(&blk, || symlink("root.img", blk.join("second.img")).unwrap());
            },
            [false, true],
        ),
        (
            "a provider",
            |root| fs::remove_file(root.join("svc/data/a/providers/net/net")).unwrap(),
            [false, true],
        ),
        (
            "the directory that is shared",
            |root| fs::create_dir_all(root.join("shares/a/svc/data")).unwrap(),
            [false, true],
        ),
        // A VM directory that came or went may lie in what others share.
        ("a VM", |root| fs::create_dir(root.join("svc/data/d")).unwrap(), [false; 2]),
        (
            "where a VM that is a link leads",
            |root| {
                fs::rename(root.join("elsewhere/c"), root.join("elsewhere/d")).unwrap();
                symlink("../shares/a", root.join("elsewhere/c")).unwrap();
            },
            [false; 2],
        ),
        (
            "a partition in the place of the same",
            |root| {
                let other = root.with_file_name("other");
                fs::rename(root, &other).unwrap();
                symlink(other, root).unwrap();
            },
            [false; 2],
        ),
        ("everything", |root| fs::rename(root.join("svc/data/a"), root.join("a")).unwrap(), [false; 2]),
    ];
    for (what, change, expected) in changes {
        let fixture = fixture();
        let known = fixture.settled();
        let locations = ["a", "b"].map(|name| fixture.location(name));
        change(&fixture.root);
        let memory = known.0.clone().ready(Architecture::X86_64).unwrap();
        let (look, scan) = (Look::new(known.1.clone()), Scan::new(Architecture::X86_64));
        let found = locations.map(|location| memory.unchanged(&location, &look, &scan).is_some());
        assert_eq!(found, expected, "{what}");
    }
}

/// Which link a name is, and so where it leads, the time of its directory tells. Whose it is, only
/// the link itself tells: nothing changes in the directory when it is given to another user.
#[test]
fn whose_a_link_to_a_share_is_is_noticed_where_it_matters() {
    if !rustix::process::geteuid().is_root() {
        // Past Rust's test harness, which would keep it back.
        let why = "only root gives a link to another user";
        writeln!(std::io::stderr(), "skipped: whose_a_link_to_a_share_is…: {why}").unwrap();
        return;
    }
    let give = |path: &Path, to: u32| std::os::unix::fs::lchown(path, Some(to), None).unwrap();
    // Whose the directory is, whose the link is then, and whether the VM counts as unchanged.
    for (owner, other, unchanged) in [(1_000, 1_001, false), (1_000, 0, false), (0, 1_001, true)] {
        let fixture = fixture();
        let link = fixture.root.join("svc/data/a/shared-dirs/files/dir");
        give(&fixture.root.join("shares/a"), owner);
        give(&link, owner);
        let known = fixture.settled();
        give(&link, other);
        assert_eq!(fixture.unchanged(&known), [unchanged, true], "{owner} {other}");
    }
}

#[test]
fn what_changed_just_now_is_not_remembered() {
    let fixture = fixture();
    assert_eq!(fixture.remembered(Moment::now().unwrap()).0.count(), 0);
    assert_eq!(fixture.unchanged(&fixture.settled()), [true; 2]);
}

#[test]
fn nothing_counts_of_another_disk_or_architecture() {
    let fixture = fixture();
    let known = fixture.settled();
    let text = serde_json::to_string(&known).unwrap();
    let same: (Memory, Tree) = serde_json::from_str(&text).unwrap();
    assert_eq!(fixture.unchanged(&same), [true; 2]);
    // The disk of memory is 0.
    let disk = text.split_once("\"disks\":{").unwrap().1.split_once('}').unwrap().0;
    let other: (Memory, Tree) = serde_json::from_str(&text.replace(disk, &disk.replace(":0", ":5"))).unwrap();
    assert_ne!(other, known);
    assert_eq!(fixture.unchanged(&other), [false; 2]);
    assert!(known.0.ready(Architecture::Aarch64).is_none());
}

#[test]
fn a_share_with_what_may_hold_vm_directories_is_not_remembered() {
    let fixture = fixture();
    fs::create_dir(fixture.root.join("shares/a/svc")).unwrap();
    let (memory, _) = fixture.remembered(Moment::now().unwrap().later(10, false));
    assert_eq!(memory.count(), 1);
}

#[test]
fn what_is_damaged_counts_for_nothing() {
    let fixture = fixture();
    let (memory, tree) = fixture.settled();
    let text = serde_json::to_value(&tree).unwrap();
    for list in ["parents", "names", "seen"] {
        let mut text = text.clone();
        text[list].as_array_mut().unwrap().pop();
        assert!(serde_json::from_value::<Tree>(text).is_err(), "{list}");
    }
    // A directory that is in itself, and directories that are not there.
    let mut text = text;
    for parent in text["parents"].as_array_mut().unwrap() {
        if !parent.is_null() {
            *parent = 1_000.into();
        }
    }
    assert_eq!(fixture.unchanged(&(memory.clone(), serde_json::from_value(text).unwrap())), [false; 2]);
    assert_eq!(fixture.unchanged(&(memory, Tree::default())), [false; 2]);
}
