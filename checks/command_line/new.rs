// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `new`: what becomes a root file system, and what is refused. That it boots is
//! `host own_vm::`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{PROGRAM, Ran, run};
use crate::support::tree::names;
use crate::support::vm_directory::{Partition, elf_header, root_image, workplace};

/// A partition, a kernel beside it, and a tree that a system could begin with.
struct Place {
    _guard: tempfile::TempDir,
    root: PathBuf,
    data: PathBuf,
}

impl Place {
    fn new() -> Self {
        let (guard, root) = workplace();
        let data = Partition::at(&root.join("P")).root.join("svc/data");
        fs::write(root.join("kernel"), elf_header()).unwrap();
        fs::create_dir_all(root.join("tree/etc")).unwrap();
        fs::write(root.join("tree/etc/passwd"), "root::0:0::/:/bin/sh\n").unwrap();
        Self { _guard: guard, root, data }
    }

    /// Makes `vm` on the partition.
    fn make(&self, more: &[&str]) -> Ran {
        run(self.command().args(["vm", "--kernel"]).arg(self.root.join("kernel")).args(more))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(&self.root).arg("new").arg("--directory").arg(&self.data);
        command
    }

    fn shell(&self, script: &str) {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let ran = Command::new("sh").args(["-ec", script]).env("PATH", path).current_dir(&self.root).output();
        let ran = ran.unwrap();
        assert!(ran.status.success(), "{script}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// What is in the root partition of the VM, as `unsquashfs` lists it.
    fn listed(&self) -> String {
        let image = self.data.join("vm/blk/root.img");
        let listed =
            Command::new("unsquashfs").args(["-lln", "-offset", "1048576"]).arg(image).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8(listed.stdout).unwrap()
    }

    /// Nothing is left of a VM that was not made.
    #[track_caller]
    fn is_empty(&self) {
        assert_eq!(names(&self.data), [""; 0]);
    }
}

#[test]
fn a_tree_and_archives_become_one_image() {
    let place = Place::new();
    place.shell("tar -cf plain.tar -C tree . && gzip -k plain.tar && mkdir P/home");
    for from in ["tree", "plain.tar", "plain.tar.gz"] {
        let ran = place.make(&["--from", from, "--provider", "netvm", "--share", "home=P/home"]).exits(0);
        let vm = place.data.join("vm");
        assert_eq!(
            ran.stdout,
            format!("made {}\n1 VM directory: 0 errors, 0 notes\n", vm.display()),
            "{from}: {}",
            ran.stderr
        );
        assert_eq!(names(&vm), ["blk", "providers", "shared-dirs", "vmlinux"], "{from}");
        assert_eq!(names(&vm.join("providers/net")), ["netvm"]);
        assert_eq!(fs::read_link(vm.join("shared-dirs/home/dir")).unwrap(), Path::new("/ext/home"));
        for file in ["vmlinux", "blk/root.img"] {
            assert_eq!(vm.join(file).metadata().unwrap().permissions().mode() & 0o777, 0o644, "{file}");
        }
        let listed = place.listed();
        for file in ["etc/passwd", "usr/lib/microvm-spectrum/microvm-guest", "etc/microvm-spectrum/shares"] {
            assert!(listed.contains(&format!("/{file}\n")), "{from}: {file}: {listed}");
        }
        assert!(listed.contains("sbin/init -> /usr/lib/microvm-spectrum/microvm-guest"), "{from}: {listed}");
        // It is never changed.
        let before = fs::metadata(&vm).unwrap().modified().unwrap();
        place.make(&["--from", from]).exits(1).complains(&["/vm: exists already"]);
        assert_eq!(fs::metadata(&vm).unwrap().modified().unwrap(), before);
        assert_eq!(names(&place.data), ["vm"]);
        fs::remove_dir_all(vm).unwrap();
    }
    // From standard input, as a container is exported.
    place.shell(&format!(
        "{PROGRAM} new vm --directory P/svc/data --kernel kernel --from - <plain.tar && test -e P/svc/data/vm/vmlinux"
    ));
}

#[test]
fn images_stay_as_they_are() {
    let place = Place::new();
    fs::write(place.root.join("disk.img"), root_image()).unwrap();
    place.shell(
        "mksquashfs tree tree.squashfs -quiet -no-progress && mkfs.erofs --quiet tree.erofs tree && \
         truncate -s 2M tree.ext4 && mke2fs -q -t ext4 -d tree tree.ext4",
    );
    for from in ["tree.squashfs", "tree.erofs", "tree.ext4", "disk.img"] {
        let ran = place.make(&["--from", from]).exits(0);
        assert!(ran.stdout.ends_with(": 0 errors, 0 notes\n"), "{from}: {}", ran.stdout);
        let made = fs::read(place.data.join("vm/blk/root.img")).unwrap();
        let given = fs::read(place.root.join(from)).unwrap();
        let at = if from == "disk.img" { 0 } else { 1 << 20 };
        assert!(made[at..].starts_with(&given), "{from}");
        fs::remove_dir_all(place.data.join("vm")).unwrap();
    }
}

#[test]
fn what_cannot_be_a_vm_leaves_nothing() {
    let place = Place::new();
    place.shell("mkdir layers && touch layers/oci-layout && tar -cf layers.tar -C layers . && mkfifo fifo");
    fs::write(place.root.join("text"), "nothing of these\n").unwrap();
    for (arguments, status, causes) in [
        (&["--from", "layers.tar"][..], 1, &["container's image", "docker export"][..]),
        (&["--from", "text"], 1, &["text: is no archive, and has no GPT"]),
        (&["--from", "fifo"], 1, &["fifo: is neither a directory nor a regular file"]),
        (&["--from", "none"], 1, &["none: cannot become a root file system"]),
        (&["--from", "tree", "--kernel", "text"], 2, &["cannot be used multiple times"]),
        (
            &["--from", "tree", "--share", "all=P"],
            1,
            &["vm/shared-dirs/all/dir: leads to", "contains svc/data"],
        ),
        (&["--from", "tree", "--share", "etc=/etc"], 1, &["leads to '/etc', outside"]),
        (&["--from", "tree", "--share", "x=none"], 2, &["the directory cannot be found"]),
        (&["--from", "tree", "--share", "../x=P"], 2, &["a tag is a file name"]),
        (&[], 2, &["--from <ROOTFS>"]),
    ] {
        let ran = place.make(arguments).exits(status);
        for cause in causes {
            assert!(ran.stderr.contains(cause), "{arguments:?}: {cause}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains("/.vm."), "{arguments:?}: {}", ran.stderr);
        place.is_empty();
    }
    // The kernel is checked too.
    fs::write(place.root.join("kernel"), "no kernel").unwrap();
    place.make(&["--from", "tree"]).exits(1).complains(&["vm/vmlinux: "]);
    place.is_empty();
    // Without one it says how to get one.
    run(place.command().args(["vm", "--from", "tree"])).exits(1).complains(&["guest/build-kernel vmlinux"]);
    // And which package has a tool.
    let ran =
        run(place.command().args(["vm", "--from", "tree", "--kernel", "kernel"]).env("PATH", "/nowhere"));
    ran.exits(3).complains(&["sqfstar: is not in PATH", "squashfs-tools"]);
    place.is_empty();
}

#[test]
fn leftovers_of_a_killed_one_go() {
    let place = Place::new();
    // No process has this id.
    let left = place.data.join(".vm.4194999.tmp/vm");
    fs::create_dir_all(&left).unwrap();
    place.make(&["--from", "tree"]).exits(0);
    assert_eq!(names(&place.data), ["vm"]);
}

#[test]
fn a_new_vm_is_made_in_the_first_source() {
    let place = Place::new();
    let config = place.root.join("config.toml");
    let source = format!(
        "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{}'\n",
        place.root.join("P").display()
    );
    let new = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.current_dir(&place.root).args(["new", "--kernel", "kernel", "--config", "config.toml"]);
        run(command.args(arguments))
    };
    new(&["app", "--from", "tree"]).exits(2).complains(&["config.toml: cannot be read"]);
    fs::write(&config, "").unwrap();
    new(&["app", "--from", "tree"]).exits(1).complains(&["config.toml: has no source"]);
    fs::write(&config, source.replace("/P'", "/Q'")).unwrap();
    new(&["app", "--from", "tree"]).exits(1).complains(&["/Q: the source user is not there"]);
    fs::write(&config, &source).unwrap();
    new(&["app", "--template", "app", "--from", "tree"]).exits(0);
    assert_eq!(names(&place.data.join("app/providers/net")), ["netvm"]);
    assert_eq!(fs::read_to_string(&config).unwrap(), source);
    let ran = new(&["netvm", "--template", "netvm", "--from", "tree"]).exits(0);
    // Set, or told to the administrator.
    assert!(ran.stderr.contains("uplink = true"), "{}", ran.stderr);
    let mut linked = Command::new(PROGRAM);
    std::os::unix::fs::symlink(&config, place.root.join("link.toml")).unwrap();
    let before = fs::read_to_string(&config).unwrap();
    linked.current_dir(&place.root).args(["new", "other", "--template", "netvm", "--from", "tree"]);
    run(linked.args(["--kernel", "kernel", "--config", "link.toml"])).exits(0).complains(&[
        "add to link.toml (it is a link, so something else manages it):\n[vm.\"user/other\"]\nuplink = true",
    ]);
    assert_eq!(fs::read_to_string(&config).unwrap(), before);
}
