// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! README's example: its two VM directories, and what the program says of them. The suite
//! `host` plays what README says of an installed program.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::program::{PROGRAM, quiet, run};
use crate::support::readme::{odd, sessions};
use crate::support::vm_directory::{Partition, elf_header, root_image, workplace};
use crate::sync_host::script;

/// The two of README.
fn directories(srv: &Path) {
    let partition = Partition::at(&srv.join("P"));
    fs::create_dir(srv.join("P/documents")).unwrap();
    fs::write(srv.join("P/documents/hello.txt"), "hello\n").unwrap();
    drop(
        partition
            .vm("appvm-hello")
            .kernel(&elf_header())
            .image("a-root.img", &root_image())
            .image("b-data.img", &[0; 512])
            .share("home", "/ext/documents"),
    );
    odd(partition.vm("appvm-odd"));
}

#[test]
fn the_example_is_what_the_program_prints() {
    let (_guard, srv) = workplace();
    directories(&srv);
    // Programs that a package names; no KVM works.
    let bin = srv.join("bin");
    fs::create_dir(&bin).unwrap();
    for tool in ["qemu-system-x86_64", "qemu-system-aarch64", "virtiofsd", "ip", "nft"] {
        script(&bin.join(tool), "exit 1");
    }
    let path =
        format!("{}:{}:{}", bin.display(), Path::new(PROGRAM).parent().unwrap().display(), "/usr/bin:/bin");
    let mut compared = 0;
    for shown in sessions("## Your own VM").iter().filter(|it| it.command.starts_with("microvm-spectrum ")) {
        let _ = fs::remove_dir_all(srv.join("appvm-hello"));
        let mut command: Command = quiet("sh");
        command.args(["-c", &shown.command]).current_dir(&srv).env("PATH", &path);
        let ran = run(&mut command);
        let status = if ran.stdout.contains("error: ") { 1 } else { 0 };
        assert_eq!(ran.status, status, "{shown:?}\n{ran:?}");
        if !shown.output.is_empty() {
            shown.is_printed(&ran.stdout.replace(&format!("{}/", srv.display()), "/srv/"));
            compared += 1;
        }
    }
    assert!(compared >= 1);
}
