// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! [Make your own VM](../../docs/your-own-vm.md): its commands as they are written, from the
//! archive of a Debian and a kernel to a guest that reaches a web server outside, and is stopped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::guest::part;
use crate::support::installed::{Host, PARTITION};
use crate::support::links::{address, link};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_or_explain;
use crate::uplinks::{self, OUTSIDE};

/// The directory in the machine where the commands run.
const WORK: &str = "/root/own-vm";

/// The page's commands, one a line, in their order.
fn commands() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/your-own-vm.md");
    let page = fs::read_to_string(page).unwrap();
    let commands: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect();
    assert!(commands.len() > 8, "{commands:?}");
    commands
}

/// That an archive of a Debian is there, which is made with the page's own command.
fn debian() -> Result<String, &'static str> {
    let archive = std::env::var("MICROVM_SPECTRUM_TEST_DEBIAN").unwrap_or_default();
    if archive.is_empty() { Err("there is no Debian: it could not be downloaded") } else { Ok(archive) }
}

#[track_caller]
fn wait_log(host: &Host, vm: &str, text: &str) {
    let log = || host.log(vm);
    wait_or_explain(&format!("{vm} says {text:?}"), || log().contains(text).then_some(()), log);
}

#[test]
fn the_pages_commands_end_in_a_debian_that_runs() {
    needs!(is_possible());
    let debian = needs!(debian());
    let host = Host::new();
    host.configure("[vm.debian]\nmemory = 256\n");
    uplinks::set_up(&host);
    host.machine.mkdir(WORK);
    fs::copy(part("KERNEL"), host.machine.path(&format!("{WORK}/vmlinux"))).unwrap();
    symlink(debian, host.machine.path(&format!("{WORK}/rootfs.tar"))).unwrap();

    for command in commands() {
        let command = command.strip_prefix("sudo ").unwrap_or(&command);
        let words: Vec<_> = command.split(' ').collect();
        match words[..] {
            // What the machine's system has is installed there.
            ["apt-get", "install", "--no-install-recommends", ref packages @ ..] => {
                let mut query = Command::new("dpkg-query");
                let found =
                    query.args(["--show", "--showformat=${db:Status-Status}\n"]).args(packages).output();
                let found = String::from_utf8(found.unwrap().stdout).unwrap();
                assert_eq!(found, "installed\n".repeat(packages.len()), "{command}");
            }
            // What checks/guest/build-kernel and build-debian have executed.
            ["/usr/local/share/microvm-spectrum/guest/build-kernel", "vmlinux"] => {}
            ["mmdebstrap", .., "rootfs.tar"] => {}
            ["microvm-spectrum", "console", "debian"] => in_debian(&host),
            _ => {
                host.ok(&["sh", "-c", &format!("cd {WORK} && {command}")]);
            }
        }
        if command.starts_with("mkdir") {
            host.machine.write(&format!("{PARTITION}/documents/hello"), "hello from the host\n");
        }
    }
    wait_log(&host, "debian", "guest: power button");
    assert_eq!(host.row("debian")["state"], "stopped");
}

/// What the guest has, on its console.
fn in_debian(host: &Host) {
    // One by one: each may take long on a busy machine.
    for text in ["Linux version", "systemd[1]: Hostname set", "guest: share documents at /mnt/documents"] {
        wait_log(host, "debian", text);
    }
    let id = link(host, "debian", "netvm");
    wait_log(host, "debian", &format!("guest: eth0 client {}", address(&id)));
    wait_log(host, "netvm", &format!(" provider of {}", address(&id)));
    wait_log(host, "netvm", "guest: clients go out through eth");
    wait_log(host, "debian", "Root shell on hvc0");
    for (command, answer) in [
        ("id --user --name", "root"),
        ("cat /mnt/documents/hello", "hello from the host"),
        ("touch /etc/there /var/there /usr/there; ls /etc/there /var/there", "/etc/there"),
        ("ls /usr/there", "No such file"),
        // It answers, with nobody at that port.
        ("bash -c '</dev/tcp/169.254.0.1/9'", "Connection refused"),
        // The outside, through the other VM and passt.
        ("getent ahostsv4 web.outside", OUTSIDE),
        (
            &format!(
                "bash -c 'exec 3<>/dev/tcp/{OUTSIDE}/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"
            ),
            "hello from outside",
        ),
    ] {
        let said = host.in_guest("debian", command);
        assert!(said.contains(answer), "{command}: {said:?}");
    }
    let failed = host.in_guest("debian", "systemctl list-units --failed --no-legend --plain; echo no more");
    assert!(failed.starts_with("no more"), "{failed}");
}
