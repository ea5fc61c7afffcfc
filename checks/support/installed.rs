// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A machine where the program is installed and a user partition has VMs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::guest::{GUEST_USER, part};
use crate::support::program::{PROGRAM, Ran, copy};
use crate::support::systemd_machine::Machine;
use crate::support::waiting::{wait_for, wait_or_explain};

/// The installed program.
pub const INSTALLED: &str = "/usr/local/bin/microvm-spectrum";
/// The user partition, in the machine.
pub const PARTITION: &str = "/srv/P";
/// A machine with everything in its place.
pub struct Host {
    pub machine: Machine,
}

impl Host {
    /// Boots it, with the program and its units installed, and an empty partition.
    /// Nothing is watched, so that nothing happens but what a test does.
    pub fn new() -> Self {
        let host = Self::watching();
        let drop_in = "/etc/systemd/system/microvm-spectrum-source@.path.d/off.conf";
        host.machine.write(drop_in, "[Unit]\nConditionPathExists=/nowhere\n");
        let drop_in = "/etc/systemd/system/microvm-spectrum-mounts.service.d/off.conf";
        host.machine.write(drop_in, "[Unit]\nConditionPathExists=/nowhere\n");
        host
    }

    /// Like [`Host::new`], where sources are watched.
    pub fn watching() -> Self {
        let host = Self::bare(&[]);
        host.copy(PROGRAM, INSTALLED, 0o755);
        host.copy(part("KERNEL"), &format!("{PARTITION}/vmlinux"), 0o644);
        host.copy(part("ROOT"), &format!("{PARTITION}/root.img"), 0o644);
        host.configure("");
        host.ok(&[INSTALLED, "units", "--output", "/usr/local/lib"]);
        host.ok(&["systemd-sysusers"]);
        host.ok(&["systemd-tmpfiles", "--create", "/usr/local/lib/tmpfiles.d/microvm-spectrum.conf"]);
        host
    }

    /// A machine, booted with options of `checks/systemd-box`, where the program is not installed
    /// yet, with an empty partition.
    pub fn bare(options: &[&str]) -> Self {
        let host = Self { machine: Machine::boot_with(options) };
        host.copy(part("VIRTIOFSD"), "/usr/local/bin/virtiofsd", 0o755);
        host.machine.mkdir(&format!("{PARTITION}/svc/data"));
        host
    }

    /// Copies a file of this system into the machine.
    pub fn copy(&self, from: impl AsRef<Path>, to: &str, mode: u32) {
        let (from, to) = (from.as_ref(), self.machine.path(to));
        copy(from, &to);
        fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Writes the configuration: one partition, QEMU with TCG, and `more`.
    pub fn configure(&self, more: &str) {
        let qemu = part("QEMU");
        self.machine.write(
            "/etc/microvm-spectrum/config.toml",
            &format!(
                "[[source]]\nkind = 'user-partition'\nname = 'user'\npath = '{PARTITION}'\nautostart = true\n\
                 [defaults]\nhypervisor = 'qemu'\naccel = 'tcg'\nmemory = 128\n\
                 [tools]\nqemu-system-x86_64 = '{}'\n{more}",
                qemu.display()
            ),
        );
    }

    #[track_caller]
    pub fn ok(&self, line: &[&str]) -> String {
        self.machine.ok(line)
    }

    /// Runs the installed program.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.machine.run(&[&[INSTALLED], arguments].concat())
    }

    /// Adds a VM directory whose kernel and image are the partition's.
    pub fn vm(&self, name: &str) -> PathBuf {
        let directory = self.machine.path(&format!("{PARTITION}/svc/data/{name}"));
        fs::create_dir_all(directory.join("blk")).unwrap();
        symlink("/ext/vmlinux", directory.join("vmlinux")).unwrap();
        symlink("/ext/root.img", directory.join("blk/root.img")).unwrap();
        directory
    }

    /// Adds a VM directory with a shared directory `home`, which is returned.
    pub fn vm_with_share(&self, name: &str) -> PathBuf {
        let directory = self.vm(name);
        let shared = self.machine.path(&format!("{PARTITION}/shared-{name}"));
        fs::create_dir(&shared).unwrap();
        fs::write(shared.join("from-host"), "hello from the host\n").unwrap();
        for path in [shared.clone(), shared.join("from-host")] {
            chown(path, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
        }
        fs::create_dir_all(directory.join("shared-dirs/home")).unwrap();
        symlink(format!("/ext/shared-{name}"), directory.join("shared-dirs/home/dir")).unwrap();
        shared
    }

    /// Installs the VMs.
    #[track_caller]
    pub fn sync(&self) {
        self.run(&["sync"]).exits(0);
    }

    /// Starts a VM and waits until its guest is up.
    #[track_caller]
    pub fn start(&self, name: &str) {
        let before = self.boots(name);
        self.run(&["start", name]).exits(0);
        self.wait_boots(name, before + 1);
    }

    /// How often a VM's guest has come up.
    pub fn boots(&self, name: &str) -> usize {
        self.log(name).matches("guest: ready").count()
    }

    /// Waits until a VM's guest has come up so often.
    #[track_caller]
    pub fn wait_boots(&self, name: &str, times: usize) {
        wait_or_explain(
            &format!("boot {times} of {name}"),
            || (self.boots(name) >= times).then_some(()),
            || self.run(&["log", "--all", name]).stdout,
        );
    }

    /// What a VM has printed.
    pub fn log(&self, name: &str) -> String {
        self.ok(&["journalctl", "--sync"]);
        self.run(&["log", name]).stdout
    }

    /// A VM's state, as `list` has it.
    pub fn state(&self, name: &str) -> String {
        self.row(name)["state"].as_str().unwrap().to_owned()
    }

    /// A VM, as `list --json` has it.
    pub fn row(&self, name: &str) -> serde_json::Value {
        let list: serde_json::Value =
            serde_json::from_str(&self.run(&["list", "--json"]).exits(0).stdout).unwrap();
        let rows = list["vms"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    }

    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) {
        wait_for(&format!("{name} is {state}, not {}", self.state(name)), || {
            (self.state(name) == state).then_some(())
        });
    }

    /// The ids, in the machine, of processes with this in their command line.
    pub fn processes(&self, pattern: &str) -> Vec<String> {
        // pgrep does not count itself, but the shells that bring us there.
        let found = self.machine.run(&["pgrep", "--full", "--", &format!("^[^ ]*{pattern}")]);
        found.stdout.lines().map(str::to_owned).collect()
    }

    /// Runs a command in a VM's guest and returns what it printed.
    #[track_caller]
    pub fn in_guest(&self, name: &str, command: &str) -> String {
        let mut console = self.machine.command(INSTALLED, ["console", name]);
        let mut console = console.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The marks are put together in the guest, so an echo could not be one.
        let typed = format!("echo '<''begin>'; {command}\necho '<''end>'\n");
        console.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
        let mut stdout = console.stdout.take().unwrap();
        let (mut text, mut buffer) = (String::new(), [0; 4096]);
        while !text.contains("<end>") {
            match stdout.read(&mut buffer).unwrap() {
                0 => break,
                length => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
            }
        }
        self.machine.run(&["pkill", "--full", "--", &format!("^{INSTALLED} console {name}$")]);
        wait_for("the end of the console", || console.try_wait().unwrap());
        let answer = text.split("<begin>").nth(1).unwrap_or_else(|| panic!("no answer in {text:?}"));
        answer.split("<end>").next().unwrap().replace('\r', "").replace("guest# ", "").trim().to_owned()
    }

    /// Types something into a VM's guest that ends it, or its console.
    pub fn last_words(&self, name: &str, command: &str) {
        let mut console = self.machine.command(INSTALLED, ["console", name]);
        let mut console = console.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let _ = console.stdin.as_mut().unwrap().write_all(format!("{command}\n").as_bytes());
        wait_for("the end of the console", || console.try_wait().unwrap());
    }
}
