// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What Nix has built boots under QEMU (TCG), shares a directory, is on its link,
//! answers on its console and is shut down.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::built::template;
use crate::real_nix::{done, nix};
use crate::support::program::{check, run};
use crate::support::running_vm::{Place, Running, Shell};
use crate::support::skip::{needs, root};

/// A console whose terminal does not repeat what is typed.
fn console(vm: &Running) -> Shell {
    let mut shell = vm.console();
    let _ = shell.run("stty -echo");
    shell
}

#[test]
fn a_vm_with_a_shared_directory() {
    let nix = needs!(nix());
    let package = nix.build("vm-appvm-hello");
    let place = Place::new();
    let mut vm = Running::start(&package, &place.run_directory("run"));
    vm.wait_until_up();
    let mut shell = console(&vm);
    assert_eq!(
        shell.run("mount -t virtiofs greeting /mnt; cat /mnt/hello.txt"),
        "Hello from a shared directory."
    );
    // busybox, what it needs and nothing else.
    assert_eq!(shell.run("readlink /sbin/init | cut -d- -f2"), "init");
    drop(shell);
    assert!(vm.shutdown().success());
    let ended = vm.end();
    assert!(ended.serial.contains("guest: power button"), "{}", ended.serial);
    ended.assert(0, "the guest powered off");
}

#[test]
fn the_vm_of_the_template() {
    let nix = needs!(nix());
    let package = done(template(nix, &["build", "--no-link", "--print-out-paths"], "#vm-hello"));
    let place = Place::new();
    let mut vm = Running::start(Path::new(package.trim()), &place.run_directory("run"));
    vm.wait_until_up();
    assert_eq!(console(&vm).run("echo $XDG_RUNTIME_DIR; stat -c %a /run/user/0"), "/run/user/0\n700");
    assert!(vm.shutdown().success());
    vm.end().assert(0, "the guest powered off");
}

/// A directory of `mkVmDirectory` is one that can be copied to a user partition.
#[test]
fn a_vm_directory_on_a_user_partition() {
    let nix = needs!(nix());
    let made = nix.build_expression(
        "library.mkVmDirectory { inherit pkgs; name = \"app\"; providers = [ \"netvm\" ]; \
         shares.\"a b\" = \"/ext/my files\"; wayland = true; }",
    );
    let place = Place::new();
    let to = place.partition.root.join("svc/data/app");
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").args(["-r", "--no-preserve=mode"]).args([&made.unwrap(), &to]).status();
    assert!(copied.unwrap().success());
    assert!(!to.join("vmlinux").is_symlink() && !to.join("blk/root.img").is_symlink());
    assert!(to.join("wayland").is_file() && to.join("providers/net/netvm").is_file());
    std::fs::create_dir(place.partition.root.join("my files")).unwrap();
    // What no hypervisor of this program has.
    std::fs::remove_file(to.join("wayland")).unwrap();
    let ran = run(check(&to).args(["--hypervisor", "qemu"])).exits(0);
    assert_eq!(ran.stdout, "1 VM directory: 0 errors, 0 notes\n");
}

#[test]
fn a_vm_that_provides_a_network() {
    let nix = needs!(nix());
    let package = nix.build("vm-netvm");
    let place = Place::new();
    let mut vm = Running::start(&package, &place.run_directory("run"));
    vm.wait_until_up();
    vm.signal("TERM");
    vm.end().assert(0, "the guest powered off");
}

#[test]
fn a_vm_with_a_link() {
    let nix = needs!(nix());
    needs!(root("makes its tap interface"));
    let package = nix.build("vm-appvm-online");
    let link = nix.value("packages.x86_64-linux.vm-appvm-online.links")[0].clone();
    let place = Place::new();
    let directory = place.run_directory("run");
    // In a network of its own, which goes with it.
    let mut command = Command::new("unshare");
    let script = r#"mount -t sysfs sysfs /sys && "$0/bin/tap-up" && exec "$0/bin/microvm-run""#;
    command.args(["--net", "--mount", "sh", "-c", script]).arg(&package).current_dir(&directory);
    command.env("MICROVM_SPECTRUM_USER", "0");
    let mut vm = Running::spawn(&package, &directory, command);
    vm.wait_until_up();
    let address = link["clientIpv4"].as_str().unwrap();
    vm.serial.wait_for(&format!("guest: eth0 client {address}"));
    let mac = link["clientMac"].as_str().unwrap().to_lowercase();
    assert_eq!(console(&vm).run("cat /sys/class/net/eth0/address"), mac);
    assert!(vm.shutdown().success());
    vm.end().assert(0, "the guest powered off");
}

#[test]
fn the_demo() {
    let nix = needs!(nix());
    let mut command = nix.flake(&["run", "--print-build-logs"], "#demo");
    let place = Place::new();
    command
        .env("TMPDIR", place.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The console waits for the guest; Ctrl-] would need a terminal, so the guest ends it.
    stdin.write_all(b"mount -t virtiofs greeting /mnt; cat /mnt/hello.txt; poweroff -f\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("Hello from a shared directory."), "{stdout}\n{stderr}");
    let left: Vec<_> =
        std::fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let left: Vec<_> = left.iter().filter(|path| !path.ends_with("p")).collect();
    assert!(left.is_empty(), "{left:?}");
}
