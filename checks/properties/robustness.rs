// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Nothing that can be read makes the program panic, and nothing makes it wait.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::directory::definition::{self, Location, Reading};
use microvm_spectrum::hypervisor;
use microvm_spectrum::hypervisor::description::FilePaths;
use microvm_spectrum::package::planning;
use microvm_spectrum::package::{self, Package};
use microvm_spectrum::plan::{HypervisorName, Plan};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value;

use crate::support::vm_directory::{Partition, VmDirectory};
use crate::workspace::{Space, blamed, choices, in_time, runner, well_formed};

fn read(directory: &Path) -> Reading {
    definition::read(&Location::find(directory, None, &[]).unwrap(), Architecture::X86_64)
}

/// A directory with one of everything, and nothing wrong.
fn complete(space: &Space) -> VmDirectory {
    let partition = Partition::at(&space.fresh("partition"));
    fs::create_dir(partition.root.join("shared")).unwrap();
    fs::write(partition.root.join("linked.img"), "").unwrap();
    partition
        .vm("vm")
        .image("a.img", b"")
        .image_link("b.img", "/ext/linked.img")
        .share("tag", "/ext/shared")
        .provider("net")
}

fn complete_plan(space: &Space, hypervisor: HypervisorName) -> Plan {
    let mut definition = read(&complete(space).path).definition.unwrap();
    definition.wayland = hypervisor == HypervisorName::Qemu;
    planning::make(&definition, &choices(hypervisor, Path::new("/opt/vmm"), Path::new("/opt/program")))
        .unwrap()
}

/// Uses a manifest's text in every way there is; whether it was one.
fn use_manifest(text: &str) -> Result<bool, String> {
    let Ok(plan) = Plan::from_manifest(text) else { return Ok(false) };
    for files in [FilePaths::of(&plan), FilePaths::inherited(&plan, true)] {
        for hypervisor in HypervisorName::ALL {
            let _ = hypervisor::description(hypervisor).command(&plan, &files);
        }
    }
    let _ = Package::of(&plan);
    match Plan::from_manifest(&plan.to_manifest()) {
        Ok(again) if again == plan => Ok(true),
        other => Err(format!("{plan:?} became {other:?}")),
    }
}

#[test]
fn any_bytes_as_a_manifest() {
    let space = Space::new();
    let good = complete_plan(&space, HypervisorName::Qemu).to_manifest();
    fs::create_dir_all(space.path.join("out/share/microvm-spectrum")).unwrap();
    let file = space.path.join("out").join(package::MANIFEST);
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        select(vec![
            "{", "}", "[", "]", "\"", "\\u0000", "\\ud800", "1e999", "-1", "null", ",", ":", "\u{fffe}"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        (1..600_usize).prop_map(|depth| b"[".repeat(depth)),
    ];
    let edits = prop::collection::vec((any::<Index>(), 0..30_usize, piece), 0..4);
    let accepted = Cell::new(0);
    let result = runner(3000).run(&(any::<bool>(), edits), |(from_good, edits)| {
        let mut bytes = if from_good { good.clone().into_bytes() } else { Vec::new() };
        for (at, length, piece) in edits {
            let start = at.index(bytes.len() + 1);
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, piece);
        }
        fs::write(&file, &bytes).unwrap();
        let loaded = package::load(&space.path.join("out"));
        let read = use_manifest(&String::from_utf8_lossy(&bytes)).map_err(TestCaseError::fail)?;
        if std::str::from_utf8(&bytes).is_ok() {
            prop_assert_eq!(loaded.is_ok(), read);
        } else {
            prop_assert!(loaded.is_err());
        }
        accepted.set(accepted.get() + i32::from(read));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(accepted.get() > 100, "only {} manifests were read at all", accepted.get());
}

#[test]
fn a_manifest_with_any_other_value() {
    let space = Space::new();
    for hypervisor in HypervisorName::ALL {
        let good = complete_plan(&space, hypervisor).to_manifest();
        let good: Value = serde_json::from_str(&good).unwrap();
        let mut places = Vec::new();
        pointers(&good, String::new(), &mut places);
        assert!(places.len() > 30, "{places:?}");
        for place in &places {
            for other in [
                "null",
                "0",
                "-1",
                "1e300",
                "18446744073709551616",
                "\"\"",
                "\"\\n\\u0000\"",
                "[]",
                "{}",
                "true",
            ] {
                let mut changed = good.clone();
                *changed.pointer_mut(place).unwrap() = serde_json::from_str(other).unwrap();
                use_manifest(&changed.to_string()).unwrap_or_else(|e| panic!("{place}={other}: {e}"));
            }
            let mut changed = good.clone();
            if let Some(Value::Object(object)) = changed.pointer_mut(place) {
                object.insert("unheard-of".to_owned(), Value::Null);
                let read = use_manifest(&changed.to_string()).unwrap();
                assert!(!read, "{place} takes a field that there is not");
            }
        }
    }
}

/// The places of all values in a document.
fn pointers(value: &Value, place: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(k, v)| pointers(v, format!("{place}/{k}"), places)),
        Value::Array(array) => {
            array.iter().enumerate().for_each(|(k, v)| pointers(v, format!("{place}/{k}"), places));
        }
        _ => {}
    }
    places.push(place);
}

#[test]
fn any_bytes_as_a_kernel() {
    let space = Space::new();
    let vm = complete(&space);
    let magic = select(vec![
        &b""[..],
        b"\x7fELF",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0",
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0",
        b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x3e",
        b"\x1f\x8b",
        b"MZ",
    ]);
    let accepted = Cell::new(0);
    let strategy = (magic, prop::collection::vec(any::<u8>(), 0..1100));
    let result = runner(2000).run(&strategy, |(magic, rest)| {
        let content = [magic, &rest].concat();
        fs::write(vm.path.join("vmlinux"), &content).unwrap();
        let reading = read(&vm.path);
        // System V ABI: 64 bits, the low byte first, machine 62.
        let good = content.starts_with(b"\x7fELF\x02\x01") && content.get(18..20) == Some(&[62, 0]);
        prop_assert_eq!(reading.definition.is_some(), good);
        let problems = well_formed(reading.problems).map_err(TestCaseError::fail)?;
        if !good {
            blamed(&problems, &[vec![vm.path.join("vmlinux")]]).map_err(TestCaseError::fail)?;
        }
        accepted.set(accepted.get() + i32::from(good));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(accepted.get() > 100, "only {} kernels were taken", accepted.get());
}

/// What can be in the place of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    File,
    Directory,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
    Dangling,
    Loop,
    Unreadable,
    /// Links to something of these kinds, which stands on the partition.
    LinkToFile,
    LinkToDirectory,
    LinkToFifo,
    LinkToSocket,
    LinkToDevice,
}

impl Kind {
    const ALL: [Self; 15] = [
        Self::Nothing,
        Self::File,
        Self::Directory,
        Self::Fifo,
        Self::Socket,
        Self::CharacterDevice,
        Self::BlockDevice,
        Self::Dangling,
        Self::Loop,
        Self::Unreadable,
        Self::LinkToFile,
        Self::LinkToDirectory,
        Self::LinkToFifo,
        Self::LinkToSocket,
        Self::LinkToDevice,
    ];

    /// Makes it; false where that takes root, or takes not being root.
    fn make(self, path: &Path, elsewhere: &Path) -> bool {
        let root = rustix::process::geteuid().is_root();
        let node = |path: &Path, kind: FileType, device| {
            rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).is_ok()
        };
        let link = |kind: Self| {
            symlink(Path::new("/ext").join(elsewhere.file_name().unwrap()), path).unwrap();
            kind.make(elsewhere, elsewhere)
        };
        match self {
            Self::Nothing => true,
            Self::File => fs::write(path, "").is_ok(),
            Self::Directory => fs::create_dir(path).is_ok(),
            Self::Fifo => node(path, FileType::Fifo, 0),
            Self::Socket => UnixListener::bind(path).is_ok(),
            // /dev/zero, of which there is no end to read, and the first loop device.
            Self::CharacterDevice => root && node(path, FileType::CharacterDevice, rustix::fs::makedev(1, 5)),
            Self::BlockDevice => root && node(path, FileType::BlockDevice, rustix::fs::makedev(7, 0)),
            Self::Dangling => symlink("nowhere", path).is_ok(),
            Self::Loop => symlink(path.file_name().unwrap(), path).is_ok(),
            Self::Unreadable => !root && fs::write(path, "").is_ok() && forbid(path),
            Self::LinkToFile => link(Self::File),
            Self::LinkToDirectory => link(Self::Directory),
            Self::LinkToFifo => link(Self::Fifo),
            Self::LinkToSocket => link(Self::Socket),
            Self::LinkToDevice => link(Self::CharacterDevice),
        }
    }
}

fn forbid(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o000)).is_ok()
}

#[test]
fn special_files_in_every_place() {
    // The entry, what it may well be, and of what an error may speak instead of it.
    let places: [(&str, &[Kind], &[&str]); 11] = [
        ("", &[], &["vmlinux", "blk"]),
        ("vmlinux", &[], &[]),
        ("blk", &[], &[]),
        ("blk/a.img", &[Kind::File, Kind::LinkToFile, Kind::Nothing], &[]),
        ("blk/b.img", &[Kind::File, Kind::LinkToFile, Kind::Nothing], &[]),
        ("shared-dirs", &[Kind::Directory, Kind::LinkToDirectory, Kind::Nothing], &[]),
        ("shared-dirs/tag", &[Kind::Nothing], &["shared-dirs/tag/dir"]),
        ("shared-dirs/tag/dir", &[Kind::LinkToDirectory], &[]),
        ("providers", &[Kind::Directory, Kind::LinkToDirectory, Kind::Nothing], &[]),
        ("providers/net", &[Kind::Directory, Kind::LinkToDirectory, Kind::Nothing], &[]),
        // Its contents are ignored, so it may be anything.
        ("providers/net/net", &Kind::ALL, &[]),
    ];
    let (mut refused, mut passed_over) = (0, Vec::new());
    for (entry, right, instead) in places {
        for kind in Kind::ALL {
            let space = Space::new();
            let vm = complete(&space).path;
            assert!(read(&vm).definition.is_some(), "the directory is fine before");
            let path = if entry.is_empty() { vm.clone() } else { vm.join(entry) };
            match path.symlink_metadata().unwrap() {
                found if found.is_dir() => fs::remove_dir_all(&path).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            // A short path: it may be a socket's.
            let elsewhere = space.path.join("partition/e");
            if !kind.make(&path, &elsewhere) {
                passed_over.push((entry, kind));
                continue;
            }
            let what = format!("{kind:?} as '{entry}'");
            let directory = vm.clone();
            let result = in_time(&what, move || {
                let location = Location::find(&directory, None, &[])?;
                Ok(definition::read(&location, Architecture::X86_64))
            });
            let (definition, problems) = match result {
                Ok(reading) => (reading.definition, well_formed(reading.problems).unwrap()),
                Err(problem) => (None, vec![problem]),
            };
            if right.contains(&kind) {
                assert!(definition.is_some(), "{what}: {problems:?}");
                continue;
            }
            assert!(definition.is_none(), "{what} is accepted");
            let mut paths: Vec<PathBuf> = instead.iter().map(|i| vm.join(i)).collect();
            paths.push(path);
            blamed(&problems, &[paths]).unwrap_or_else(|e| panic!("{what}: {e}"));
            refused += 1;
        }
    }
    println!("{refused} refused, passed over for lack of the privilege: {passed_over:?}");
    assert!(refused > 80, "only {refused} were refused");
}

#[test]
fn a_kernel_without_end_is_read_to_its_first_kilobyte() {
    let space = Space::new();
    let vm = complete(&space);
    // As large as can be, with nothing in it.
    for name in ["vmlinux", "blk/a.img"] {
        fs::OpenOptions::new().write(true).open(vm.path.join(name)).unwrap().set_len(1 << 42).unwrap();
    }
    let path = vm.path.clone();
    assert!(in_time("a sparse file of 4 TiB", move || read(&path)).definition.is_some());
}
