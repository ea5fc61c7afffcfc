// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `host`: what the unit files call, as far as it takes no systemd.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use crate::namespace::{mounts, shell, words};
use crate::support::program::run;
use crate::support::skip::{needs, root};
use crate::support::tree;
use crate::sync_host::{Host, host, script};

/// A host of root's alone; an error says why there is none.
fn roots() -> Result<Host, String> {
    root("does this")?;
    mounts()?;
    let host = host();
    host.vm("a");
    host.synced();
    Ok(host)
}

/// Takes from a package what only this program's packages have.
fn make_older(package: &Path) {
    fs::remove_dir_all(package.join("share/microvm-spectrum")).unwrap();
    fs::remove_file(package.join("share/microvm/system")).unwrap();
}

#[test]
fn what_a_vm_is_started_from_is_noted_and_forgotten() {
    let host = needs!(roots());
    let booted = host.state.join("a/booted");
    for memory in ["64", "128"] {
        host.configure(&format!("[vm.a]\nmemory = {memory}\n"));
        host.synced();
        run(&mut host.set_booted("a")).exits(0).says_nothing();
        assert_eq!(fs::read_link(&booted).unwrap(), host.package("user/a"), "free of links");
        assert_eq!(tree::names(&host.state.join("a")), ["booted", "current"]);
    }
    for _ in 0..2 {
        run(&mut host.clear_booted("a")).exits(0).says_nothing();
        assert_eq!(tree::names(&host.state.join("a")), ["current"]);
    }
    run(&mut host.set_booted("none")).exits(1).complains(&["none: ", "cannot be examined"]);
    run(&mut host.clear_booted("none")).exits(0).says_nothing();
    // Its user may have become another since then.
    run(&mut host.run_as_root("a")).exits(3).complains(&["a: not started: "]);
    // A record that cannot be read is no sign that another program installed the VM.
    for verb in ["tap-up", "virtiofsd", "run"] {
        let call = host.unit_calls(&[verb, "a"]);
        let script = "mount -t tmpfs none /run && mkdir -p /run/microvm-spectrum/started && \
                      echo '{' >/run/microvm-spectrum/started/a.json && exec \"$@\"";
        let why = "/run/microvm-spectrum/started/a.json cannot be read: ";
        run(&mut shell(script, words(&call))).exits(3).complains(&[why]);
    }
    // A folder of another program, where sync was never called.
    let other = host.root.join("other");
    fs::create_dir_all(other.join("theirs")).unwrap();
    fs::create_dir(host.root.join("package")).unwrap();
    symlink("../../package", other.join("theirs/current")).unwrap();
    let mut command = crate::support::program::call(["host", "--state-dir"]);
    command.arg(&other).args(["set-booted", "theirs"]);
    run(&mut shell("mount -t tmpfs none /run && exec \"$@\"", words(&command))).exits(0).says_nothing();
    assert_eq!(fs::read_link(other.join("theirs/booted")).unwrap(), host.root.join("package"));
    // Unless systemd still has what this program said of another VM of its name.
    let old = "/run/systemd/generator/microvm@theirs.service.d";
    let script = format!(
        "mount -t tmpfs none /run && mkdir -p {old} && : >{old}/50-microvm-spectrum.conf && exec \"$@\""
    );
    run(&mut shell(&script, words(&command))).exits(3).complains(&["theirs: not started: "]);
}

#[test]
fn root_uses_nothing_that_another_user_could_replace() {
    let host = needs!(roots());
    let package = host.package("user/a");
    let trusted = |status: i32| run(&mut host.set_booted("a")).exits(status);
    trusted(0).says_nothing();
    for part in
        [host.state.clone(), host.own(""), host.own("packages"), host.state.join("a"), package.clone()]
    {
        chown(&part, Some(65_533), None).unwrap();
        let told = trusted(1);
        told.complains(&["is not safe for root: another user could change", "chown root"]);
        chown(&part, Some(0), None).unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(0o775)).unwrap();
        trusted(1).complains(&["mode 775"]);
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let current = host.state.join("a/current");
    std::os::unix::fs::lchown(&current, Some(65_533), None).unwrap();
    trusted(1).complains(&["owner 65533"]);
    std::os::unix::fs::lchown(&current, Some(0), None).unwrap();
    trusted(0).says_nothing();
    // The same for a script that root would become, of a package that another program made.
    make_older(&package);
    let up = package.join("bin/tap-up");
    script(&up, "echo called");
    assert_eq!(run(&mut host.unit_calls(&["tap-up", "a"])).exits(0).stdout, "called\n");
    chown(&up, Some(65_533), None).unwrap();
    let ran = run(&mut host.unit_calls(&["tap-up", "a"])).exits(1);
    assert_eq!(ran.stdout, "");
    ran.complains(&["a: ", "bin/tap-up", "is not safe for root"]);
}

#[test]
fn names_that_no_vm_can_have() {
    let host = host();
    for verb in ["set-booted", "clear-booted", "tap-up", "tap-down", "pci-setup", "virtiofsd", "run", "stop"]
    {
        for bad in ["", ".", "..", "../a", "a/b", "/etc", "a b", "-a", "a\nb", "\u{1b}[31m"] {
            run(host.unit_calls(&[verb]).arg("--").arg(bad)).exits(2);
        }
    }
    assert!(!host.state.exists());
}

#[test]
fn taps_of_the_older_convention_have_plain_names() {
    let host = needs!(roots());
    run(&mut host.set_booted("a")).exits(0);
    let package = host.package("user/a").join("share/microvm");
    let bin = host.root.join("bin");
    fs::create_dir(&bin).unwrap();
    script(&bin.join("ip"), &format!("echo \"$*\" >>'{}/calls'\n", bin.display()));
    make_older(&host.package("user/a"));
    let up = |arguments: &[&str]| {
        let mut command = host.unit_calls(arguments);
        run(command.env("PATH", &bin).env("MICROVM_SPECTRUM_USER", "70000"))
    };
    for bad in ["../etc", "-batch", "a;b", "sixteen-letters-", "a/b", ".", "eth0\u{1b}[31m"] {
        fs::write(package.join("tap-interfaces"), bad).unwrap();
        for verb in ["tap-up", "tap-down"] {
            let problem = "share/microvm/tap-interfaces: has '";
            up(&[verb, "a"]).exits(1).complains(&[
                "a: error: ",
                problem,
                "': an interface's name has at most 15",
            ]);
        }
    }
    fs::write(package.join("tap-interfaces"), "vm-x\n").unwrap();
    fs::write(package.join("tap-flags"), "vnet_hdr name eth0\n").unwrap();
    up(&["tap-up", "a"]).exits(1).complains(&["share/microvm/tap-flags: has the unknown flag 'name'"]);
    assert!(!bin.join("calls").exists());
    fs::write(package.join("tap-flags"), "vnet_hdr\n").unwrap();
    up(&["tap-up", "a"]).exits(0).says_nothing();
    let calls = fs::read_to_string(bin.join("calls")).unwrap();
    assert_eq!(calls, "tuntap add dev vm-x mode tap user 70000 vnet_hdr\nlink set dev vm-x up\n");
}
