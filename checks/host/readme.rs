// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What README says of a Debian, command by command as it is written: the program is
//! installed, a VM is started, used and stopped, and all of it is removed.

use std::fs;
use std::os::unix::fs::{chown, symlink};

use crate::picture;
use crate::support::guest::{GUEST_USER, part};
use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::program::{PROGRAM, Ran};
use crate::support::readme::{Shown, odd, sessions};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::terminal::Terminal;
use crate::support::vm_directory::VmDirectory;
use crate::support::waiting::wait_for;

/// The VM of README's example.
const VM: &str = "appvm-hello";
/// Where the source of the program is, in the machine, and what `make build` has built.
const SOURCE: &str = "/srv/source";
const BUILT: &str = "/srv/built";
/// What the machine has already: packages, and what takes minutes to build.
const DONE: [&str; 4] =
    ["sudo apt-get ", "make build", "cargo install ", "sudo install ~/.cargo/bin/virtiofsd "];

/// A Debian as README wants it.
fn debian() -> Host {
    let host = Host::bare(&["--bind", &format!("{}:{SOURCE}", env!("CARGO_MANIFEST_DIR"))]);
    host.machine.mkdir(&format!("{BUILT}/release"));
    host.copy(PROGRAM, &format!("{BUILT}/release/microvm-spectrum"), 0o755);
    // A machine that builds packages may lack it, and root needs none.
    host.machine.write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    host.ok(&["chmod", "755", "/usr/local/bin/sudo"]);
    // The one of the tests, in the place of the packaged one.
    symlink(part("QEMU"), host.machine.path("/usr/local/bin/qemu-system-x86_64")).unwrap();

    let vm = format!("{PARTITION}/svc/data/{VM}");
    for directory in ["blk", "shared-dirs/home"] {
        host.machine.mkdir(&format!("{vm}/{directory}"));
    }
    host.copy(part("KERNEL"), &format!("{vm}/vmlinux"), 0o644);
    host.copy(part("ROOT"), &format!("{vm}/blk/a-root.img"), 0o644);
    host.machine.write(&format!("{vm}/blk/b-data.img"), &"x".repeat(512));
    host.machine.mkdir(&format!("{PARTITION}/documents"));
    host.machine.write(&format!("{PARTITION}/documents/hello.txt"), "hello from the host\n");
    for path in ["documents", "documents/hello.txt"] {
        let path = host.machine.path(&format!("{PARTITION}/{path}"));
        chown(path, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    }
    symlink("/ext/documents", host.machine.path(&format!("{vm}/shared-dirs/home/dir"))).unwrap();
    host
}

fn shell(host: &Host, command: &str) -> Ran {
    let line = format!("cd {SOURCE} && export CARGO_TARGET_DIR={BUILT} && {command}");
    host.machine.run(&["bash", "-c", &line])
}

/// Does what README shows at a terminal, and compares what that prints, which is returned.
fn play(host: &Host, shown: &Shown) -> String {
    let line = format!("cd {SOURCE} && export CARGO_TARGET_DIR={BUILT} && {}", shown.command);
    let command = host.machine.command("env", ["TERM=xterm-256color", "bash", "-c", line.as_str()]);
    let mut terminal = Terminal::start(&command, 40, picture::COLUMNS);
    if shown.command.contains(" microvm-spectrum console ") {
        terminal.wait_for("Ctrl-] detaches");
        terminal.type_text("\x1d");
    }
    let status = terminal.end();
    assert!(status.success(), "{shown:?}: {status}\n{}", terminal.all());
    // What a reader with KVM does not see.
    let is_of_readme = |line: &&str| !line.starts_with("microvm-spectrum: KVM does not work here");
    let printed: String = terminal.all().split_inclusive('\n').filter(is_of_readme).collect();
    if !shown.output.is_empty() {
        shown.is_printed(&plain(&printed));
    }
    printed
}

/// A terminal's text without its colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\x1b');
    let first = parts.next().unwrap_or_default().to_owned();
    let rest: String = parts.map(|part| part.split_once('m').map_or("", |(_, text)| text)).collect();
    (first + &rest).replace('\r', "")
}

/// README's picture: what a new user does first, as it looks.
fn draw(first: &[(&Shown, String)]) {
    let shown: String =
        first.iter().map(|(shown, text)| format!("\x1b[32m$\x1b[0m {}\n{text}", shown.command)).collect();
    let svg =
        picture::svg("Two VM directories are checked, and one is installed, started and listed", &shown);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/terminal.svg");
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        fs::write(path, &svg).unwrap();
    }
    assert!(
        fs::read_to_string(path).unwrap_or_default() == svg,
        "{path} is out of date: checks/record-terminal"
    );
}

#[test]
fn the_hour_that_readme_describes() {
    needs!(is_possible());
    let host = debian();
    let all = sessions("## Installing on Debian");
    let all: Vec<_> = all.iter().filter(|it| !DONE.iter().any(|done| it.command.starts_with(done))).collect();
    let begins = |command: &str| {
        all.iter().position(|it| it.command.starts_with(command)).unwrap_or_else(|| panic!("no {command}"))
    };
    let stop = begins(&format!("sudo microvm-spectrum stop {VM}"));
    let uninstall = begins("sudo make uninstall");
    assert!(stop > 8 && uninstall == all.len() - 1, "{all:?}");

    let example = sessions("## Your own VM");
    let check = example.iter().find(|it| it.command.contains("check") && !it.output.is_empty()).unwrap();
    let (install, use_it) = all[..stop].split_at(begins("sudo microvm-spectrum sync"));
    install.iter().for_each(|shown| drop(play(&host, shown)));
    let odd_directory = host.machine.path(&format!("{PARTITION}/svc/data/appvm-odd"));
    odd(VmDirectory::at(&odd_directory));
    let checked =
        Shown { command: format!("cd /srv; {}; true", check.command), output: check.output.clone() };
    let mut first = vec![(check, play(&host, &checked))];
    fs::remove_dir_all(odd_directory).unwrap();
    for shown in use_it {
        if shown.command.contains(" status ") {
            // A reader types slower than a guest boots.
            host.wait_boots(VM, 1);
        }
        let printed = play(&host, shown);
        if ["sync", "start", "list"]
            .iter()
            .any(|it| shown.command.contains(&format!("microvm-spectrum {it}")))
        {
            first.push((shown, printed));
        }
    }
    draw(&first);
    started(&host);
    // What removes the program does not do so while a VM runs, but removes a copy made for elsewhere.
    let ran = shell(&host, "sudo make uninstall");
    let why = "VMs are running: first run 'microvm-spectrum stop --all'";
    assert!(ran.status != 0 && ran.stderr.contains(why), "{ran:?}");
    // The cluster would start its own again.
    let pacemaker = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n";
    host.machine.write("/run/systemd/system/pacemaker.service", pacemaker);
    let ran = shell(&host, "systemctl daemon-reload && systemctl start pacemaker && sudo make uninstall");
    let standby = format!("{why}, and 'crm_standby --node {} --update on' for", host.ok(&["uname", "-n"]));
    assert!(ran.status != 0 && ran.stderr.contains(&standby), "{ran:?}");
    host.ok(&["systemctl", "stop", "pacemaker.service"]);
    fs::remove_file(host.machine.path("/run/systemd/system/pacemaker.service")).unwrap();
    host.ok(&["systemctl", "daemon-reload"]);
    assert_eq!(shell(&host, "make install DESTDIR=/srv/copy && make uninstall DESTDIR=/srv/copy").status, 0);
    assert_eq!(host.ok(&["find", "/srv/copy", "-type", "f"]), "");
    assert_eq!(host.state(VM), "running");

    all[stop..uninstall].iter().for_each(|shown| drop(play(&host, shown)));
    stopped(&host);
    // Neither what it has enabled, nor what has failed, stays.
    let failing = "systemctl start microvm-spectrum-resync@nowhere.service; \
                   systemctl is-failed microvm-spectrum-resync@nowhere.service";
    host.machine.write("/etc/microvm-spectrum/config.toml", "mistake\n");
    assert_eq!(shell(&host, failing).stdout, "failed\n");
    play(&host, all[uninstall]);
    let units = host.ok(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "*microvm*"]);
    assert_eq!(units, "");
    let left = "find /usr/local /etc/systemd -name '*microvm*'";
    assert_eq!(host.ok(&["sh", "-c", left]), "");
    assert_eq!(host.processes("microvm-spectrum"), [""; 0]);
}

/// What there is while a VM runs.
fn started(host: &Host) {
    // Started means that the control socket answers.
    assert!(host.machine.path(&format!("/run/microvm/{VM}/{VM}.control.sock")).exists());
    host.wait_boots(VM, 1);
    let row = host.row(VM);
    assert_eq!(
        (&row["state"], &row["source"], &row["uid"]),
        (&"running".into(), &"user".into(), &70_000.into())
    );
    assert_eq!(
        host.in_guest(VM, "mount-share home /mnt; cat /mnt/hello.txt; echo new >/mnt/new; ls -n /mnt/new"),
        "hello from the host\n-rw-r--r--    1 0        0                4 Jan  1 00:00 /mnt/new"
            .replace("Jan  1 00:00 ", &month_day_time(host))
    );
    // Each runs as who it should.
    for (pattern, uid) in
        [("microvm-spectrum vm run", "70000"), ("qemu-system", "70000"), ("virtiofsd --fd", "4242")]
    {
        for pid in host.processes(pattern) {
            assert_eq!(host.ok(&["stat", "--format=%u", &format!("/proc/{pid}")]), uid, "{pattern}");
        }
        assert!(!host.processes(pattern).is_empty(), "{pattern}");
    }
    let link = |name: &str| host.ok(&["readlink", "-f", &format!("/var/lib/microvms/{VM}/{name}")]);
    assert_eq!(link("booted"), link("current"));
    // On a busy host it says what it waits for.
    host.run(&["restart", VM]).exits(0);
    host.wait_boots(VM, 2);
}

/// Nothing is there when it has stopped.
fn stopped(host: &Host) {
    assert_eq!(host.state(VM), "stopped");
    wait_for("the end of all its units", || {
        let units = format!("microvm*@{VM}.service");
        host.ok(&["systemctl", "list-units", "--plain", "--no-legend", &units]).is_empty().then_some(())
    });
    for pattern in ["qemu-system", "virtiofsd", &format!("{INSTALLED} vm")] {
        assert!(host.processes(pattern).is_empty(), "{pattern}");
    }
    for directory in ["/run/microvm", "/run/microvm-virtiofsd"] {
        assert_eq!(fs::read_dir(host.machine.path(directory)).unwrap().count(), 0, "{directory}");
    }
    assert!(!host.machine.path(&format!("/var/lib/microvms/{VM}/booted")).is_symlink());
}

/// The time of a file that was made now, as busybox' `ls` prints it.
fn month_day_time(host: &Host) -> String {
    let line = host.in_guest(VM, "ls -n /mnt/new");
    let words: Vec<_> = line.split_whitespace().collect();
    format!("{} {:>2} {} ", words[5], words[6], words[7])
}
