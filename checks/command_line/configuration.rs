// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The configuration, as `sync` reads it: what is refused, with which status,
//! and that settings come where they belong.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::program::{call, parse, run};
use crate::support::skip::{needs, ordinary_user};
use crate::support::tree;
use crate::sync_host::{Host, host, source, tools};

impl Host {
    fn write_config(&self, text: &str) {
        fs::write(&self.config, text).unwrap();
    }

    /// The manifest of a VM's package.
    fn manifest(&self, id: &str) -> Value {
        let path = self.package(id).join("share/microvm-spectrum/manifest.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }
}

fn check_config(host: &Host) -> Command {
    let mut command = call(["check-config"]);
    command.arg(&host.config);
    command
}

/// Asserts that nothing was made.
#[track_caller]
fn nothing_is_made(host: &Host) {
    assert!(!host.state.exists());
}

#[test]
fn mistakes_have_a_line_and_a_column() {
    let host = host();
    host.vm("a");
    let good = source("user", &host.partition.root);
    for (text, place, cause) in [
        ("[defaults]\nmemroy = 5\n".to_owned(), ":2:1", "unknown field `memroy`"),
        ("\n  memory = 5\n".to_owned(), ":2:3", "unknown field `memory`"),
        ("[defaults]\nmemory = 'much'\n".to_owned(), ":2:10", "invalid type: string"),
        ("[defaults]\nmemory = -1\n".to_owned(), ":2:10", "invalid value: integer `-1`"),
        ("[defaults]\nmemory = 4294967296\n".to_owned(), ":2:10", "invalid value: integer"),
        ("[defaults]\nvcpus = 65536\n".to_owned(), ":2:9", "invalid value: integer"),
        ("[defaults]\nguest-uid = 4294967295\n".to_owned(), ":2:13", "a number from 0 to 4294967294"),
        ("[vm.a.shares.b]\nguest-gid = -1\n".to_owned(), ":2:13", "invalid value: integer `-1`"),
        ("[vm.a.shares.b]\nuid = 5\n".to_owned(), ":2:1", "unknown field `uid`"),
        ("[defaults]\nhypervisor = 'xen'\n".to_owned(), ":2:14", "unknown variant `xen`"),
        ("[defaults]\naccel = 'hvf'\n".to_owned(), ":2:9", "unknown variant `hvf`"),
        ("[defaults]\nautostart = 'yes'\n".to_owned(), ":2:13", "invalid type: string"),
        (format!("{good}[[source]]\nname = 'x'\nkind = 'disk'\n"), ":8:8", "unknown variant `disk`"),
        (good.replace("'user'", "'../x'"), ":3:8", "cannot contain the character '/'"),
        (good.replace("'user'", "''"), ":3:8", "cannot be empty"),
        (format!("{good}allow = ['relative']\n"), ":6:9", "expected PREFIX"),
        (format!("{good}colour = 'red'\n"), ":6:1", "unknown field `colour`"),
        ("[[source]]\nname = 'x'\n".to_owned(), ":1:1", "missing field"),
        ("[tools]\nxen = '/x'\n".to_owned(), ":2:1", "unknown variant `xen`"),
        ("[uids]\nfirst = 70000\n".to_owned(), ":1:1", "missing field `last`"),
        ("# ü\nx = 'ü' y\n".to_owned(), ":2:9", ""),
        ("[defaults]\n[defaults]\n".to_owned(), ":2:2", "duplicate key"),
    ] {
        host.write_config(&text);
        let ran = run(&mut host.sync()).exits(2);
        assert_eq!(ran.stdout, "");
        let (problems, rest) = parse(&ran.stderr);
        let ([only], []) = (problems.as_slice(), rest.as_slice()) else { panic!("{text}:\n{}", ran.stderr) };
        let start = format!("{}{place}: ", host.config.display());
        assert!(only.text.starts_with(&start) && only.text.contains(cause), "{text}\n{only:?}");
        // The same without a host.
        let alone = run(&mut check_config(&host)).exits(2);
        assert_eq!((alone.stdout, alone.stderr), (ran.stdout, ran.stderr), "{text}");
        assert!(only.help.contains("microvm-spectrum-config(5)"), "{only:?}");
        nothing_is_made(&host);
    }
}

#[test]
fn everything_that_makes_no_sense_is_told_at_once() {
    let host = host();
    let (root, user) = (&host.root, source("user", &host.partition.root));
    let relative = source("relative", Path::new("P"));
    host.write_config(&format!(
        "{user}{user}{relative}[uids]\nfirst = 1000\nlast = 2000\n[tools]\nip = 'bin/ip'\n\
         [vm.plain]\n[vm.'nobody/a']\n[vm.'user/a b']\n[vm.'user/a/b']\n[vm.'']\n"
    ));
    let ran = run(&mut host.sync()).exits(2);
    let (problems, rest) = parse(&ran.stderr);
    assert_eq!(rest, [""; 0]);
    let causes = [
        ":8:8: two sources have the name user (see line 3, too)",
        ":14:8: the path of the source relative is not absolute",
        ":16:1: the user ids 1000 to 2000 are not a valid range for VMs",
        ":20:6: the path of ip, bin/ip, is not absolute",
        ":21:1: [vm.\"plain\"] names no VM of a source",
        ":22:1: [vm.\"nobody/a\"] names no VM of a source",
        ":23:1: [vm.\"user/a b\"] names no VM of a source: a VM name cannot contain the character ' '",
        ":24:1: [vm.\"user/a/b\"] names no VM of a source",
        ":25:1: [vm.\"\"] names no VM of a source: a VM name cannot be empty",
    ];
    for cause in causes {
        let expected = format!("{}{cause}", host.config.display());
        assert!(problems.iter().any(|problem| problem.text == expected), "{cause}:\n{}", ran.stderr);
    }
    assert_eq!(problems.len(), causes.len(), "{}", ran.stderr);
    nothing_is_made(&host);
    // Ranges that look like some, too.
    for (first, last) in [(0, 99_999), (65_535, 70_000), (70_001, 70_000), (70_000, 4_294_967_294_u32)] {
        host.write_config(&format!("[uids]\nfirst = {first}\nlast = {last}\n"));
        run(&mut host.sync()).exits(2).complains(&[&format!("the user ids {first} to {last}")]);
    }
    assert!(root.join("config.toml").exists() && !host.state.exists());
}

#[test]
fn a_configuration_is_checked_without_its_host() {
    let host = host();
    let two = source("user", Path::new("/nowhere/P")) + &source("other", Path::new("/nowhere/P"));
    // No path of it is looked at.
    host.write_config(&source("user", Path::new("/nowhere/P")));
    run(&mut check_config(&host)).exits(0).says_nothing();
    host.write_config(&format!("{two}[uids]\nfirst = 80001\nlast = 80000\n"));
    run(&mut check_config(&host)).exits(2).complains(&[
        "the sources user and other are the same place",
        "the user ids 80001 to 80000 are not a valid range",
    ]);
    let stick = "[[source]]\nkind = 'user-partition'\nname = 'stick'\npartuuid = 'sda1'\n";
    host.write_config(&format!("{stick}[settings]\ntols = {{}}\n[vm.x]\nmemroy = 5\n"));
    run(&mut check_config(&host)).exits(2).complains(&[
        "source.partuuid: 'sda1' is not a PARTUUID",
        "settings: unknown field `settings`",
        "vm.x.memroy: unknown field `memroy`",
    ]);
    // What sync says for the VM that has it.
    host.write_config(
        "[[source]]\nkind = 'builtin'\nname = 'a'\npath = '/a'\n[vm.x]\nvcpus = 300\n[defaults]\nmemory = 1\n",
    );
    run(&mut check_config(&host)).exits(2).complains(&[
        ":6:9: [vm.\"x\"] cannot have 300 virtual processors (vcpus)",
        ":8:10: [defaults] cannot have 1 MiB of memory",
    ]);
    fs::remove_file(&host.config).unwrap();
    run(&mut check_config(&host)).exits(2).complains(&["cannot be read: No such file"]);
    nothing_is_made(&host);
}

#[test]
fn a_configuration_that_cannot_be_read() {
    let host = host();
    fs::remove_file(&host.config).unwrap();
    let path = host.config.display().to_string();
    let ran = run(&mut host.sync()).exits(2);
    ran.complains(&[&path, "cannot be read: No such file", "create it; microvm-spectrum-config(5)"]);
    fs::create_dir(&host.config).unwrap();
    // The file is there, and the host cannot read it.
    run(&mut host.sync()).exits(3).complains(&[&path, "cannot be read: Is a directory"]);
    fs::remove_dir(&host.config).unwrap();
    fs::write(&host.config, b"name = '\xff'\n").unwrap();
    run(&mut host.sync()).exits(2).complains(&[&path, "cannot be read", "UTF-8"]);
    // The message quotes what it says, but never raw: the helper looks for that.
    host.write_config("[defaults]\n\"\\u001b[31m\\u202e\" = 1\n");
    run(&mut host.sync()).exits(2).complains(&["unknown field `\\u{1b}[31m\\u{202e}`"]);
    nothing_is_made(&host);
}

#[test]
fn a_configuration_without_anything_is_fine() {
    let host = host();
    host.vm("a");
    host.write_config("");
    run(&mut host.sync()).exits(0).warns_of_nothing();
    host.has(&[]);
    assert_eq!(tree::names(&host.state), [".microvm-spectrum"]);
    host.is_whole();
}

#[test]
fn a_call_that_makes_no_sense_is_status_2() {
    let host = host();
    for (arguments, says) in [
        (&["--start"][..], "--no-systemd"),
        (&["--state-dir", ""], "--state-dir"),
        (&["--nonsense"], "--nonsense"),
        (&["a"], "'a'"),
        (&["--config"], "--config"),
    ] {
        run(host.sync().args(arguments)).exits(2).complains(&[says]);
    }
    for verb in ["start", "stop", "restart", "console", "log"] {
        run(&mut call([verb])).exits(2).complains(&["NAME"]);
    }
    for arguments in [&["host"][..], &["host", "set-booted"], &["host", "set-booted", "a/b"], &["units"]] {
        run(&mut call(arguments)).exits(2);
    }
    nothing_is_made(&host);
}

#[test]
fn a_state_directory_that_cannot_be_is_status_3() {
    let host = host();
    host.vm("a");
    let file = host.root.join("file");
    fs::write(&file, "").unwrap();
    let ran = run(&mut host.sync_to(&file.join("state"))).exits(3);
    ran.complains(&[&format!("error: {}", file.display()), "cannot be written"]);
    run(&mut host.sync_to(Path::new("/proc/nowhere"))).exits(3).complains(&["/proc/nowhere"]);
    // A relative one is one of the working directory.
    let mut command = host.sync_to(Path::new("there"));
    run(command.current_dir(&host.root)).exits(0).warns_of_nothing();
    assert_eq!(tree::names(&host.root.join("there")), [".microvm-spectrum", "a"]);
    needs!(ordinary_user("root may write everywhere"), "a state directory of another user");
    run(&mut host.sync_to(Path::new("/usr/nowhere"))).exits(3).complains(&["Permission denied"]);
}

#[test]
fn settings_come_to_the_vms_that_they_are_for() {
    let host = host();
    for name in ["a", "b", "c"] {
        host.vm(name);
    }
    host.configure(
        "[defaults]\nmemory = 512\nautostart = true\n\
         [vm.a]\nmemory = 64\nvcpus = 3\nautostart = false\n\
         [vm.'user/b']\nhypervisor = 'qemu'\naccel = 'tcg'\n",
    );
    host.synced();
    let settings = |id: &str| {
        let (vm, manifest) = (host.in_catalog(id), host.manifest(id));
        assert_eq!(vm["hypervisor"], manifest["hypervisor"]);
        let number = |key: &str| manifest[key].as_u64().unwrap();
        let hypervisor = vm["hypervisor"].as_str().unwrap().to_owned();
        (hypervisor, number("memory_mib"), number("vcpus"), vm["autostart"].as_bool().unwrap())
    };
    assert_eq!(settings("user/a"), ("cloud-hypervisor".to_owned(), 64, 3, false));
    assert_eq!(settings("user/b"), ("qemu".to_owned(), 512, 1, true));
    assert_eq!(settings("user/c"), ("cloud-hypervisor".to_owned(), 512, 1, true));
    assert_eq!(host.manifest("user/b")["accelerator"], "tcg");
    assert_eq!(host.manifest("user/b")["tools"]["microvm-spectrum"], "/usr/bin/microvm-spectrum");
    // Those that no VM can have are the problem of the VM that has them.
    host.configure("[vm.a]\nmemory = 1\nvcpus = 300\n");
    let ran = run(&mut host.sync()).exits(1);
    ran.complains(&["cannot have 1 MiB of memory", "cannot have 300 virtual processors"]);
    host.has(&[("user/a", "broken"), ("user/b", "runnable"), ("user/c", "runnable")]);
}

#[test]
fn the_guests_owners_of_shared_directories_come_from_the_settings() {
    let host = host();
    fs::create_dir(host.partition.root.join("shared")).unwrap();
    for name in ["a", "b"] {
        host.vm(name).share("x", "/ext/shared").share("y=z", "/ext/shared");
    }
    let synced = |text: &str| {
        host.configure(text);
        host.synced();
        ["user/a", "user/b"].map(|id| {
            let shares = host.manifest(id)["shares"].clone();
            [0, 1].map(|index| (shares[index]["guest_uid"].as_u64(), shares[index]["guest_gid"].as_u64()))
        })
    };
    // Root's are left out, as in packages of former versions.
    assert_eq!(synced(""), [[(None, None); 2]; 2]);
    let found = synced(
        "[defaults]\nguest-gid = 100\n[vm.a]\nguest-uid = 1000\n\
         [vm.a.shares.'y=z']\nguest-uid = 4294967294\nguest-gid = 0\n",
    );
    let [x, y] = [(Some(1000), Some(100)), (Some(4_294_967_294), None)];
    assert_eq!(found, [[x, y], [(None, Some(100)); 2]]);
    // The same from options.
    let package = host.root.join("built");
    let mut command = call(["build", "--hypervisor=qemu", "--guest-uid=1000", "--guest-uid=y=z=4294967294"]);
    command.args(["--guest-gid=y=z=0", "--guest-gid=100", "--output"]).arg(&package);
    let options = ["qemu-system-x86_64", "qemu-system-aarch64", "virtiofsd"]
        .map(|tool| format!("--tool={tool}=/{tool}"));
    run(command.args(options).arg("--accel=tcg").arg(host.partition.root.join("svc/data/a"))).exits(0);
    let manifest = fs::read_to_string(package.join("share/microvm-spectrum/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["shares"], host.manifest("user/a")["shares"]);
    for wrong in ["4294967295", "-1", "y=z", "", "x=+"] {
        let option = format!("--guest-uid={wrong}");
        run(&mut call(["build", &option, "--output=/nowhere", "/nowhere"]))
            .exits(2)
            .complains(&["0 to 4294967294"]);
    }
    // A tag that it does not have is the VM's problem.
    host.configure("[vm.a.shares.other]\nguest-uid = 1\n");
    let entry = "svc/data/a/shared-dirs/other: does not exist, but was given an owner in the guest";
    run(&mut host.sync()).exits(1).complains(&[entry]);
    host.has(&[("user/a", "broken"), ("user/b", "runnable")]);
    host.configure("[defaults.shares.x]\nguest-uid = 1\n");
    run(&mut host.sync()).exits(2).complains(&["[defaults] sets shares"]);
}

#[test]
fn a_program_that_is_nowhere_breaks_the_vms_that_need_it() {
    let host = host();
    host.vm("a");
    fs::create_dir(host.root.join("empty")).unwrap();
    host.write_config(&format!(
        "{}[tools]\nch-remote = '/of/a/former/version'\n",
        source("user", &host.partition.root)
    ));
    let ran = run(host.sync().env("PATH", host.root.join("empty"))).exits(1);
    ran.complains(&["needs the program cloud-hypervisor", "  help: install it ("]);
    host.has(&[("user/a", "broken")]);
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    crate::sync_host::script(&host.root.join("empty").join(&qemu), "");
    let ran = run(host.sync().env("PATH", host.root.join("empty"))).exits(1);
    let instead =
        "choose qemu, which is here (--hypervisor qemu, for sync hypervisor = \"qemu\"), or install it (";
    ran.complains(&["needs the program cloud-hypervisor", instead]);
    // The configuration's counts, else the one in PATH.
    let found = host.root.join("empty/cloud-hypervisor");
    crate::sync_host::script(&found, "");
    run(host.sync().env("PATH", host.root.join("empty"))).exits(0).warns_of_nothing();
    let manifest = host.manifest("user/a");
    assert_eq!(manifest["tools"]["cloud-hypervisor"], found.to_str().unwrap());
    assert!(tools().contains("cloud-hypervisor") && manifest["tools"].get("ch-remote").is_none());
    host.write_config(&format!(
        "{}[tools]\ncloud-hypervisor = '/opt/ch'\n",
        source("user", &host.partition.root)
    ));
    run(host.sync().env("PATH", host.root.join("empty"))).exits(0).warns_of_nothing();
    assert_eq!(host.manifest("user/a")["tools"]["cloud-hypervisor"], "/opt/ch");
}

#[test]
fn a_builtin_source_is_a_directory_of_vm_directories() {
    let host = host();
    let (builtin, images) = (host.root.join("builtin"), host.root.join("img"));
    fs::create_dir_all(images.join("blk")).unwrap();
    fs::write(images.join("blk/root.img"), "").unwrap();
    fs::write(images.join("vmlinux"), crate::support::vm_directory::elf_header()).unwrap();
    crate::support::vm_directory::VmDirectory::at(&builtin.join("netvm"))
        .link("vmlinux", "/usr/img/vmlinux")
        .link("blk/root.img", "/usr/img/blk/root.img");
    let text = |allow: &str| {
        let path = builtin.display();
        format!("[[source]]\nkind = 'builtin'\nname = 'builtin'\npath = '{path}'\n{allow}\n{}", tools())
    };
    host.write_config(&text(""));
    run(&mut host.sync()).exits(1).complains(&["leads to '/usr/img/vmlinux', outside of the places"]);
    host.has(&[("builtin/netvm", "broken")]);
    host.write_config(&text(&format!("allow = ['/usr/img={}']", images.display())));
    host.synced();
    host.has(&[("builtin/netvm", "runnable")]);
    assert_eq!(host.in_catalog("builtin/netvm")["directory"], builtin.join("netvm").to_str().unwrap());
}

#[test]
fn one_vm_has_one_table() {
    let host = host();
    host.vm("a");
    host.configure("[vm.a]\nautostart = true\n[vm.'user/a']\nmemory = 64\n");
    let ran = run(&mut host.sync()).exits(2);
    ran.complains(&["[vm.\"a\"] and [vm.\"user/a\"] name the same VM", "merge the two tables"]);
    nothing_is_made(&host);
}
