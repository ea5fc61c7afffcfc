// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `build`: what it refuses, what it replaces, and that it leaves nothing else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::program::{HYPERVISORS, build, call, check, parse, run};
use crate::support::tree::{self, assert_same};
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

/// A VM directory without problems and a folder for packages, with nothing in it.
struct Place {
    _guard: tempfile::TempDir,
    vm: VmDirectory,
    folder: PathBuf,
}

fn place() -> Place {
    let (guard, root) = workplace();
    let vm = Partition::at(&root.join("partition")).vm("vm").image("root.img", b"");
    let folder = root.join("packages");
    fs::create_dir(&folder).unwrap();
    Place { _guard: guard, vm, folder }
}

impl Place {
    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn build(&self) -> std::process::Command {
        build(&self.vm.path, &self.out(), "qemu")
    }

    /// Asserts that these names are in the folder, and nothing temporary.
    #[track_caller]
    fn holds(&self, names: &[&str]) {
        assert_eq!(tree::names(&self.folder), names);
    }
}

#[test]
fn says_nothing_when_all_is_fine() {
    for hypervisor in HYPERVISORS {
        let place = place();
        run(&mut build(&place.vm.path, &place.out(), hypervisor)).exits(0).says_nothing();
        place.holds(&["out"]);
    }
}

#[test]
fn tells_notes_and_builds() {
    let place = place();
    let vm = place.vm.path.join("unknown");
    fs::write(&vm, "").unwrap();
    let ran = run(&mut place.build()).exits(0);
    let (problems, rest) = parse(&ran.stderr);
    assert_eq!((problems.len(), rest.len(), ran.stdout.as_str()), (1, 0, ""), "{}", ran.stderr);
    place.holds(&["out"]);
}

#[test]
fn refuses_a_directory_in_the_words_of_check() {
    let place = place();
    let vm = VmDirectory::at(&place.vm.path)
        .kernel(b"\x1f\x8b")
        .image_link("x.img", "/dev/sda")
        .share("tag", "/ext")
        .provider("vm")
        .file("unknown", b"")
        .file("wayland", b"");
    for hypervisor in HYPERVISORS {
        let checked = run(check(&vm.path).args(["--hypervisor", hypervisor])).exits(1);
        // Whether the QEMU of this host can show windows is no matter here.
        let mut building = build(&vm.path, &place.out(), hypervisor);
        let built = run(building.args(["--tool", "qemu-system-x86_64=/nonexistent"])).exits(1);
        let (mut said, mut saying): (Vec<_>, Vec<_>) =
            (checked.stdout.lines().collect(), built.stderr.lines().collect());
        let errors = if hypervisor == "qemu" { 4 } else { 5 };
        assert_eq!(said.pop(), Some(&*format!("1 VM directory: {errors} errors, 1 note")));
        assert_eq!(saying.pop(), Some("microvm-spectrum: nothing was built"));
        assert_eq!(said, saying);
        assert_eq!(built.stdout, "");
        place.holds(&[]);
    }
    // Nor is what stands there touched.
    let good = Partition::at(&place.folder.parent().unwrap().join("second")).vm("good").image("x.img", b"");
    run(&mut build(&good.path, &place.out(), "qemu")).exits(0);
    let before = tree::read(&place.out());
    run(place.build().arg("--force")).exits(1);
    assert_same(&before, &tree::read(&place.out()), "the old package changed");
    place.holds(&["out"]);
}

#[test]
fn refuses_a_missing_directory() {
    let place = place();
    let missing = place.vm.path.join("none");
    let ran = run(&mut build(&missing, &place.out(), "qemu")).exits(1);
    ran.complains(&[&format!("error: {}: cannot be found", missing.display()), "nothing was built"]);
    place.holds(&[]);
}

#[test]
fn an_existing_package_is_replaced_only_when_told() {
    let place = place();
    run(&mut place.build()).exits(0);
    let first = tree::read(&place.out());
    let path = place.out().display().to_string();
    run(place.build().args(["--memory", "64"])).exits(1).complains(&[&path, "exists", "--force"]);
    assert_same(&first, &tree::read(&place.out()), "the old package changed");
    place.holds(&["out"]);
    run(place.build().args(["--memory", "64", "--force"])).exits(0).says_nothing();
    assert_ne!(first, tree::read(&place.out()));
    place.holds(&["out"]);
    // Nothing of the old one is left in the new one.
    run(build(&place.vm.path, &place.folder.join("fresh"), "qemu").args(["--memory", "64"])).exits(0);
    assert_same(&tree::read(&place.folder.join("fresh")), &tree::read(&place.out()), "not a fresh package");
    // Without anything to replace, it is no different.
    fs::remove_dir_all(place.out()).unwrap();
    run(place.build().arg("--force")).exits(0).says_nothing();
    assert_same(&first, &tree::read(&place.out()), "not the first package");
}

/// Puts something at a path.
type Maker = fn(&Path);

#[test]
fn nothing_but_a_package_is_ever_replaced() {
    let place = place();
    let out = place.out();
    let others: [(&str, Maker); 5] = [
        ("a directory", |out| {
            fs::create_dir(out).unwrap();
            fs::write(out.join("precious"), "precious").unwrap();
        }),
        ("an empty directory", |out| fs::create_dir(out).unwrap()),
        ("a file", |out| fs::write(out, "precious").unwrap()),
        ("a link to a package", |out| symlink("../package", out).unwrap()),
        ("a dangling link", |out| symlink("nowhere", out).unwrap()),
    ];
    run(&mut build(&place.vm.path, &place.folder.parent().unwrap().join("package"), "qemu")).exits(0);
    for (what, make) in others {
        make(&out);
        let before = tree::read(&place.folder);
        let path = out.display().to_string();
        run(&mut place.build()).exits(1).complains(&[&path, "exists", "--force"]);
        run(place.build().arg("--force")).exits(1).complains(&[
            &path,
            "is not a runner package",
            "move it away",
        ]);
        assert_same(&before, &tree::read(&place.folder), what);
        if out.is_dir() && !out.is_symlink() {
            fs::remove_dir_all(&out).unwrap();
        } else {
            fs::remove_file(&out).unwrap();
        }
    }
}

#[test]
fn an_output_that_cannot_be() {
    let place = place();
    let parent = place.folder.join("none");
    let ran = run(&mut build(&place.vm.path, &parent.join("out"), "qemu")).exits(3);
    ran.complains(&[&format!("{} cannot be written", parent.display())]);
    let file = place.vm.path.join("vmlinux");
    let ran = run(&mut build(&place.vm.path, &file.join("out"), "qemu")).exits(3);
    ran.complains(&[&format!("{} cannot be written", file.display())]);
    for nameless in ["/", "..", "."] {
        let ran = run(build(&place.vm.path, Path::new(nameless), "qemu").current_dir(&place.folder));
        assert!(matches!(ran.status, 1 | 2), "{}", ran.stderr);
    }
    place.holds(&[]);
}

#[test]
fn outputs_are_found_however_they_are_named() {
    let place = place();
    run(build(&place.vm.path, Path::new("out"), "qemu").current_dir(&place.folder)).exits(0).says_nothing();
    let package = tree::read(&place.out());
    fs::remove_dir_all(place.out()).unwrap();
    run(&mut build(&place.vm.path, &place.out().join(""), "qemu")).exits(0).says_nothing();
    assert_same(&package, &tree::read(&place.out()), "a slash at the end");
    place.holds(&["out"]);
    run(build(&place.vm.path, &place.out().join(""), "qemu").arg("--force")).exits(0).says_nothing();
    place.holds(&["out"]);
}

#[test]
fn a_missing_tool_is_named_with_its_option() {
    let place = place();
    let empty = place.folder.parent().unwrap().join("empty");
    fs::create_dir(&empty).unwrap();
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    for (hypervisor, tools) in [("qemu", &[qemu.as_str()][..]), ("cloud-hypervisor", &["cloud-hypervisor"])] {
        let mut command = call(["build", "--hypervisor", hypervisor]);
        command.arg(&place.vm.path).arg("--output").arg(place.out()).env("PATH", &empty);
        let ran = run(&mut command).exits(1);
        let (problems, _) = parse(&ran.stderr);
        assert_eq!(problems.len(), tools.len(), "{}", ran.stderr);
        for (problem, tool) in problems.iter().zip(tools) {
            assert!(problem.text.contains(&format!("needs the program {tool}")), "{problem:?}");
            assert!(problem.help.contains(&format!("--tool {tool}=PATH")), "{problem:?}");
        }
        // Also when there is no PATH at all.
        run(command.env_remove("PATH")).exits(1);
    }
    place.holds(&[]);
}

#[test]
fn tools_are_taken_from_path() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = place();
    let tools = place.folder.parent().unwrap().join("tools");
    fs::create_dir(&tools).unwrap();
    let program = tools.join("cloud-hypervisor");
    fs::write(&program, "").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let given = ["--force", "--tool", "cloud-hypervisor=relative/ch"];
    for (given, expected) in [(&[][..], program), (&given, place.folder.join("relative/ch"))] {
        let mut command = call(["build"]);
        command.args(given).arg(&place.vm.path).arg("--output").arg(place.out()).env("PATH", &tools);
        run(command.current_dir(&place.folder)).exits(0).says_nothing();
        let manifest = fs::read_to_string(place.out().join("share/microvm-spectrum/manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        let found = |tool: &str| manifest["tools"][tool].as_str().map(PathBuf::from);
        assert_eq!(found("cloud-hypervisor"), Some(expected));
        assert_eq!(found("microvm-spectrum"), Some(PathBuf::from(crate::support::program::PROGRAM)));
    }
}

#[test]
fn wrong_usage_is_status_2() {
    let place = place();
    for (arguments, says) in [
        (&["--tool", "qemu=/usr/bin/qemu"][..], "there is no tool 'qemu'; the tools are cloud-hypervisor"),
        (&["--tool", "virtiofsd"], "expected NAME=PATH"),
        (&["--tool", "virtiofsd="], "expected NAME=PATH"),
        (&["--memory", "much"], "--memory"),
        (&["--memory", "-1"], "-1"),
        (&["--memory", "4294967296"], "--memory"),
        (&["--vcpus", "65536"], "--vcpus"),
        (&["--accel", "xen"], "--accel"),
        (&["--nonsense"], "--nonsense"),
    ] {
        let ran = run(place.build().args(arguments)).exits(2);
        assert!(ran.stderr.contains(says), "{arguments:?}: {}", ran.stderr);
    }
    for accelerator in ["kvm", "tcg", "auto"] {
        let mut command = build(&place.vm.path, &place.out(), "cloud-hypervisor");
        run(command.args(["--accel", accelerator])).exits(2).complains(&["--accel is for QEMU only"]);
    }
    run(call(["build"]).arg(&place.vm.path)).exits(2).complains(&["--output"]);
    run(call(["build", "--output"]).arg(place.out())).exits(2).complains(&["DIR"]);
    place.holds(&[]);
}

#[test]
fn memory_and_processors_have_limits() {
    let place = place();
    for (arguments, cause, help) in [
        (["--memory", "0"], "cannot have 0 MiB of memory", "between 32 and 4194304 MiB"),
        (["--memory", "31"], "cannot have 31 MiB of memory", "between 32 and 4194304 MiB"),
        (["--memory", "4194305"], "cannot have 4194305 MiB", "between 32 and 4194304 MiB"),
        (["--vcpus", "0"], "cannot have 0 virtual processors", "between 1 and 254"),
        (["--vcpus", "255"], "cannot have 255 virtual processors", "between 1 and 254"),
    ] {
        let ran = run(place.build().args(arguments)).exits(1);
        let (problems, _) = parse(&ran.stderr);
        let [only] = problems.as_slice() else { panic!("not one problem:\n{}", ran.stderr) };
        assert!(only.text.starts_with(place.vm.path.to_str().unwrap()), "{only:?}");
        assert!(only.text.contains(cause) && only.help.contains(help), "{only:?}");
        place.holds(&[]);
    }
    for arguments in [["--memory", "32"], ["--memory", "4194304"], ["--vcpus", "254"]] {
        run(place.build().args(arguments).arg("--force")).exits(0).says_nothing();
    }
}

#[test]
fn pci_devices_are_named_in_full_and_fit() {
    let place = place();
    for (given, told) in [
        ("01:00.0", "'01:00.0' is not the full form of a PCI address: write 0000:01:00.0"),
        ("0000:AB:00.0", "write 0000:ab:00.0"),
        ("0000:01:00.8", "'0000:01:00.8' is not a PCI address such as 0000:01:00.0"),
        ("\u{1b}[2J", "'\\u{1b}[2J' is not a PCI address"),
    ] {
        run(place.build().args(["--device", given])).exits(2).complains(&[told]);
    }
    let devices =
        |count: usize| (0..count).map(|n| format!("--device=0000:{n:02x}:00.0")).collect::<Vec<_>>();
    let mut twice = devices(1);
    twice.extend(devices(1));
    let ports = |ports: u8, count| [vec![format!("--link-ports={ports}")], devices(count)].concat();
    for (arguments, cause, help) in [
        (devices(9), "cannot have 9 PCI devices", "choose at most 8"),
        (twice, "cannot have the PCI device 0000:00:00.0 twice", "choose it once"),
        (ports(17, 8), "qemu has room for 7 PCI devices besides the VM's other devices, and 8", "link-ports"),
        (ports(24, 1), "qemu has room for 0 PCI devices", "link-ports"),
    ] {
        let ran = run(place.build().args(&arguments)).exits(1);
        let (problems, _) = parse(&ran.stderr);
        let [only] = problems.as_slice() else { panic!("not one problem:\n{}", ran.stderr) };
        assert!(only.text.contains(cause) && only.help.contains(help), "{only:?}");
        place.holds(&[]);
    }
    run(place.build().args(ports(16, 8))).exits(0).says_nothing();
    // Cloud Hypervisor has no ports, and one bus for everything.
    let (_guard, root) = workplace();
    let mut vm = Partition::at(&root.join("partition")).vm("vm");
    for n in 0..12 {
        vm = vm.image(format!("{n}.img"), b"");
    }
    for n in 0..4 {
        vm = vm.provider(&format!("netvm-{n}"));
    }
    fs::create_dir(root.join("partition/shared")).unwrap();
    for n in 0..8 {
        vm = vm.share(n.to_string(), "/ext/shared");
    }
    let build = |count| {
        let mut command = build(&vm.path, &root.join("out"), "cloud-hypervisor");
        command.arg("--link-ports=24").args(devices(count));
        run(&mut command)
    };
    build(5).exits(1).complains(&["cloud-hypervisor has room for 4 PCI devices"]);
    build(4).exits(0).says_nothing();
}
