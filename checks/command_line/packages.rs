// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A built package's scripts find their package wherever it is and however
//! they are called, and say what is missing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{PROGRAM, Ran, call, copy, quiet, run};
use crate::support::tree;
use crate::support::vm_directory::{Partition, VmDirectory, workplace};

/// A VM, a QEMU that only writes down how it was called, and a place to run it.
struct Place {
    _guard: tempfile::TempDir,
    root: PathBuf,
    vm: VmDirectory,
}

fn place(name: &str) -> Place {
    let (guard, root) = workplace();
    let vm = Partition::at(&root.join("partition")).vm(name).image("root.img", b"");
    fs::create_dir(root.join("runtime")).unwrap();
    let place = Place { _guard: guard, root, vm };
    // Its first argument goes on the first line, its working directory on the last.
    let record = place.record();
    let script = format!("#!/bin/sh\n{{ printf '%s\\n' \"$@\"; pwd; }} >'{}'\nexit 9\n", record.display());
    fs::write(place.qemu(), script).unwrap();
    fs::set_permissions(place.qemu(), fs::Permissions::from_mode(0o755)).unwrap();
    place
}

impl Place {
    fn qemu(&self) -> PathBuf {
        self.root.join("stand-in")
    }

    fn record(&self) -> PathBuf {
        self.root.join("record")
    }

    fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    fn build(&self, output: &Path) {
        let mut command = call(["build", "--hypervisor", "qemu", "--accel", "tcg"]);
        command.arg(&self.vm.path).arg("--output").arg(output);
        for arch in ["x86_64", "aarch64"] {
            command.arg("--tool").arg(format!("qemu-system-{arch}={}", self.qemu().display()));
        }
        run(command.arg("--tool").arg(format!("microvm-spectrum={PROGRAM}"))).exits(0).says_nothing();
    }

    /// Runs `command` in the runtime directory, and checks that this VM's QEMU was started.
    #[track_caller]
    fn starts_the_vm(&self, command: &mut Command) {
        self.starts_the_vm_in(command, &self.runtime());
    }

    #[track_caller]
    fn starts_the_vm_in(&self, command: &mut Command, directory: &Path) {
        let _ = fs::remove_file(self.record());
        let before = tree::names(directory);
        let ran = run(command.current_dir(directory)).exits(6);
        assert_eq!(ran.stdout, "");
        let name = self.vm.path.file_name().unwrap().to_str().unwrap();
        let line = format!("microvm-spectrum: {name}: the virtual machine monitor did not start: ");
        assert!(ran.stderr.contains(&line), "{}", ran.stderr);
        let record = fs::read_to_string(self.record()).expect("QEMU was started");
        assert!(record.starts_with(&format!("-name\nguest={name},process={name}\n")), "{record}");
        assert!(record.contains("\n-kernel\n/proc/self/fd/10\n"), "{record}");
        assert!(record.contains("\"filename\":\"/proc/self/fd/11\""), "{record}");
        assert!(record.ends_with(&format!("\n{}\n", directory.display())), "{record}");
        assert_eq!(tree::names(directory), before, "something is left");
    }
}

fn script(package: &Path) -> PathBuf {
    package.join("bin/microvm-run")
}

#[test]
fn by_its_path() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    place.starts_the_vm(&mut quiet(script(&package)));
    place.starts_the_vm(&mut quiet("../out/bin/microvm-run"));
    place.starts_the_vm(&mut quiet("../out/bin/../bin/./microvm-run"));
    place.starts_the_vm_in(&mut quiet("./microvm-run"), &package.join("bin"));
    place.starts_the_vm(quiet("sh").arg(script(&package)));
    let mut path = std::ffi::OsString::from(package.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    place.starts_the_vm(quiet("sh").args(["-c", "exec microvm-run"]).env("PATH", path));
}

#[test]
fn without_an_environment() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    place.starts_the_vm(Command::new(script(&package)).env_clear().stdin(std::process::Stdio::null()));
}

#[test]
fn by_symbolic_links() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    symlink(script(&package), place.root.join("to-the-script")).unwrap();
    symlink("to-the-script", place.root.join("to-the-link")).unwrap();
    symlink("out", place.root.join("to-the-package")).unwrap();
    symlink("out/bin", place.root.join("to-bin")).unwrap();
    for name in ["to-the-script", "to-the-link", "to-the-package/bin/microvm-run", "to-bin/microvm-run"] {
        place.starts_the_vm(&mut quiet(place.root.join(name)));
        place.starts_the_vm(&mut quiet(format!("../{name}")));
    }
}

#[test]
fn with_a_path_that_means_something_to_a_shell() {
    for name in
        ["two words", "it's \"quoted\"", "$HOME `id` $(id)", "a\\b", "line\nfeed", "*", "ü;&|<>", "-n"]
    {
        let place = place("vm");
        let package = place.root.join(name);
        place.build(&package);
        place.starts_the_vm(&mut quiet(script(&package)));
        place.starts_the_vm(&mut quiet(script(&Path::new("..").join(name))));
        let link = place.root.join(format!("link to {name}"));
        symlink(&package, &link).unwrap();
        place.starts_the_vm(&mut quiet(script(&link)));
    }
}

#[test]
fn after_it_was_moved() {
    let (place, other) = (place("vm"), place("other"));
    let package = place.root.join("out");
    place.build(&package);
    let moved = place.root.join("moved");
    fs::rename(&package, &moved).unwrap();
    place.starts_the_vm(&mut quiet(script(&moved)));
    // Another package where it was.
    other.build(&package);
    place.starts_the_vm(&mut quiet(script(&moved)));
    other.starts_the_vm(&mut quiet(script(&package)));
    let copy = quiet("cp").arg("-a").arg(&moved).arg(place.root.join("copy")).status().unwrap();
    assert!(copy.success());
    fs::remove_dir_all(&moved).unwrap();
    place.starts_the_vm(&mut quiet(script(&place.root.join("copy"))));
}

#[test]
fn with_a_program_whose_path_means_something_to_a_shell() {
    let place = place("vm");
    let folder = place.root.join("it's $HOME \"x\"");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("pro gram");
    copy(PROGRAM, &program);
    let package = place.root.join("out");
    let mut command = quiet(&program);
    command.args(["build", "--hypervisor", "qemu", "--accel", "tcg", "--output"]).arg(&package);
    for arch in ["x86_64", "aarch64"] {
        command.arg("--tool").arg(format!("qemu-system-{arch}={}", place.qemu().display()));
    }
    run(command.arg(&place.vm.path)).exits(0).says_nothing();
    place.starts_the_vm(&mut quiet(script(&package)));
}

#[test]
fn a_missing_tap_is_named_with_what_makes_it() {
    let place = place("client");
    let vm = VmDirectory::at(&place.vm.path).provider("netvm").provider("vpn");
    let package = place.root.join("out");
    place.build(&package);
    let taps = fs::read_to_string(package.join("share/microvm/tap-interfaces")).unwrap();
    let taps: Vec<_> = taps.lines().collect();
    assert_eq!(taps.len(), 2);
    let ran = run(quiet(script(&package)).current_dir(place.runtime())).exits(3);
    for (tap, provider) in taps.iter().zip(["netvm", "vpn"]) {
        assert!(tap.starts_with("vmc-") && tap.len() == 8, "{tap}");
        let text = format!("/proc/self/net/dev: lacks the tap interface {tap} of the link to {provider}");
        assert!(ran.stderr.contains(&text), "{}", ran.stderr);
        assert!(ran.stderr.contains("bin/tap-up as root, with MICROVM_SPECTRUM_USER="), "{}", ran.stderr);
    }
    assert_eq!(ran.stdout, "");
    assert!(!place.record().exists(), "QEMU must not be started");
    assert_eq!(tree::names(&place.runtime()), [""; 0]);
    let _ = vm;
}

#[test]
fn a_definition_that_is_not_what_it_was() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    let runs = |says: &str| {
        let ran = run(quiet(script(&package)).current_dir(place.runtime())).exits(1);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert!(ran.stderr.contains("  help: "), "{}", ran.stderr);
        assert!(!place.record().exists(), "QEMU must not be started");
        assert_eq!(tree::names(&place.runtime()), [""; 0]);
    };
    let vm = VmDirectory::at(&place.vm.path).link("blk/root.img", "/dev/null");
    runs("leads to '/dev/null', outside");
    let vm = vm.without("blk/root.img").fifo("blk/root.img");
    runs("blk/root.img: cannot be opened: not a regular file");
    let vm = vm.without("blk/root.img");
    runs("blk/root.img: ");
    let _ = vm.without("vmlinux");
    runs("vmlinux: ");
}

#[test]
fn a_vm_that_does_not_run() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    assert_eq!(tree::names(&package.join("bin")), ["microvm-console", "microvm-run", "microvm-shutdown"]);
    let calls = |script: &str| run(quiet(package.join("bin").join(script)).current_dir(place.runtime()));
    calls("microvm-shutdown").exits(0).complains(&["vm does not run in this directory"]);
    calls("microvm-console").exits(1).complains(&["vm does not run in this directory"]);
    assert_eq!(tree::names(&place.runtime()), [""; 0]);
}

#[test]
fn what_is_no_package() {
    let place = place("vm");
    let package = place.root.join("out");
    place.build(&package);
    let command = |path: &Path| -> Ran { run(call(["command"]).arg(path)) };
    let shown = command(&package).exits(0);
    assert_eq!(shown.stdout, command(&script(&package)).exits(0).stdout, "by way of a script");
    let none = place.root.join("none");
    command(&none).exits(1).complains(&[&none.display().to_string(), "cannot be read"]);
    command(&place.vm.path).exits(1).complains(&["manifest.json", "cannot be read"]);
    run(call(["vm", "run", "--package"]).arg(&none)).exits(1).complains(&["cannot be read"]);

    let manifest = package.join("share/microvm-spectrum/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    for (changed, says) in [
        (text.replace("\"version\": 1", "\"version\": 2"), "has version 2, this program reads version 1"),
        (text.replace("\"vcpus\": 1", "\"vcpus\": -1"), "is not a manifest"),
        (text.replace("\"vcpus\"", "\"unknown\""), "is not a manifest"),
        (text.replace("\"name\": \"vm\"", "\"name\": \"a,b\""), "is not a manifest"),
        (text[..text.len() / 2].to_owned(), "is not a manifest"),
        (String::new(), "is not a manifest"),
    ] {
        fs::write(&manifest, changed).unwrap();
        command(&package).exits(1).complains(&[manifest.to_str().unwrap(), says]);
        let ran = run(quiet(script(&package)).current_dir(place.runtime()));
        ran.exits(1).complains(&[manifest.to_str().unwrap(), says]);
    }
}
