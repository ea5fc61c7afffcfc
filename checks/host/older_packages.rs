// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Runner packages of others, installed by hand as `microvm -c` does, in the
//! same units: of microvm.nix's older convention, which only names taps and
//! shares, and of today's, which brings scripts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixStream;

use crate::support::guest::{GUEST_USER, part};
use crate::support::installed::{Host, PARTITION};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::tree;
use crate::support::waiting::wait_for;

/// Writes the files of a package, those in `bin` executable, and links to it.
fn install(host: &Host, name: &str, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = format!("/opt/{name}/{path}");
        host.machine.write(&path, text);
        if path.contains("/bin/") {
            fs::set_permissions(host.machine.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    host.machine.mkdir(&format!("/var/lib/microvms/{name}"));
    symlink(format!("/opt/{name}"), host.machine.path(&format!("/var/lib/microvms/{name}/current"))).unwrap();
}

/// What starts QEMU by hand, with a share and a tap.
fn microvm_run() -> String {
    format!(
        "#!/bin/sh
        echo \"I am $(id --user --name), group $(id --group --name), in $(pwd)\"
        mkfifo monitor.in monitor.out
        exec {} -name old -nodefaults -no-user-config -display none -accel tcg,split-wx=on -cpu max -m 128M \\
            -machine q35,memory-backend=memory -object memory-backend-memfd,id=memory,size=128M,share=on \\
            -kernel {PARTITION}/vmlinux -append 'console=ttyS0 root=PARTLABEL=root' -serial stdio \\
            -drive file={PARTITION}/root.img,format=raw,if=virtio,readonly=on \\
            -chardev socket,id=console,path=console.sock,server=on,wait=off \\
            -device virtio-serial-pci -device virtconsole,chardev=console \\
            -chardev socket,id=home,path=old-home.sock -device vhost-user-fs-pci,chardev=home,tag=home \\
            -netdev tap,id=net,ifname=old-tap,script=no,downscript=no -device virtio-net-pci,netdev=net \\
            -monitor pipe:monitor
        ",
        part("QEMU").display()
    )
}

/// Presses the power button, and waits for the end.
const MICROVM_SHUTDOWN: &str = "#!/bin/sh
    echo \"microvm-shutdown of $MAINPID\"
    cat monitor.out >/dev/null &
    while kill -0 \"$MAINPID\" 2>/dev/null; do
        # Opened for both, which waits for no reader: it may have ended just now.
        echo system_powerdown 1<>monitor.in
        sleep 0.5
    done
    ";

/// Runs a command in the guest, whose console is `console.sock`.
fn in_guest(host: &Host, name: &str, command: &str) -> String {
    let path = host.machine.path(&format!("/run/microvm/{name}/console.sock"));
    let mut console = UnixStream::connect(path).unwrap();
    // The marks are put together in the guest, so an echo could not be one.
    writeln!(console, "echo '<''begin>'; {command}\necho '<''end>'").unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("<end>") {
        let length = console.read(&mut buffer).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let answer = text.split("<begin>").nth(1).unwrap().split("<end>").next().unwrap();
    answer.replace('\r', "").replace("guest# ", "").trim().to_owned()
}

#[test]
fn a_package_that_only_names_its_taps_and_shares() {
    needs!(is_possible());
    let host = Host::new();
    let shared = host.machine.path("/srv/home");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("from-host"), "hello from the host\n").unwrap();
    for path in [shared.clone(), shared.join("from-host")] {
        chown(path, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    }
    install(
        &host,
        "old",
        &[
            ("bin/microvm-run", &microvm_run()),
            ("bin/microvm-shutdown", MICROVM_SHUTDOWN),
            ("share/microvm/hypervisor", "qemu\n"),
            ("share/microvm/tap-interfaces", "old-tap\n"),
            ("share/microvm/tap-flags", "vnet_hdr\n"),
            ("share/microvm/virtiofs/home/source", "/srv/home\n"),
            ("share/microvm/virtiofs/home/socket", "old-home.sock\n"),
        ],
    );
    // With a VM of this program beside it; `sync` leaves the other alone, also
    // where a VM directory has its name.
    host.vm("appvm");
    let folder = host.machine.path("/var/lib/microvms/old");
    let before = (tree::read(&folder), tree::read(&host.machine.path("/opt/old")));
    host.sync();
    let row = host.row("old");
    assert_eq!((&row["state"], &row["hypervisor"]), (&"stopped".into(), &"qemu".into()), "{row}");
    assert_eq!((&row["source"], &row["uid"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    let table = host.run(&["list"]).exits(0).stdout;
    let line = table.lines().find(|line| line.starts_with("old ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["old", "stopped", "qemu", "-", "-"]);

    host.start("old");
    assert_eq!(host.state("old"), "running");
    let log = host.log("old");
    assert!(log.starts_with("I am microvm, group kvm, in /run/microvm/old\n"), "{log}");
    let tap = host.ok(&["ip", "-details", "link", "show", "old-tap"]);
    assert!(tap.contains(" vnet_hdr on ") && tap.contains(" user microvm "), "{tap}");
    assert!(tap.contains("LOWER_UP"), "no process has it open: {tap}");
    let command = "mount-share home /mnt; cat /mnt/from-host; echo new >/mnt/new; ls /sys/class/net";
    let answer = in_guest(&host, "old", command);
    assert!(answer.starts_with("hello from the host\n") && answer.contains("eth0"), "{answer}");
    assert_eq!(fs::read_to_string(shared.join("new")).unwrap(), "new\n");
    assert_eq!(host.ok(&["stat", "--format=%u", "/srv/home/new"]), GUEST_USER.to_string());
    // It does not escape what its guest prints, and `log` does.
    in_guest(&host, "old", r"printf 'bell \007 \033[2J \377 end\n' >/dev/console");
    wait_for("what it printed", || host.log("old").contains(r"bell \u{7} \u{1b}[2J \xff end").then_some(()));
    host.run(&["console", "old"]).exits(1).complains(&["the package of old has no console"]);

    // While it runs it is none of `sync`'s business either.
    let booted = host.machine.path("/var/lib/microvms/old/booted");
    assert_eq!(fs::read_link(&booted).unwrap().to_str(), Some("/opt/old"));
    host.vm("old");
    host.run(&["sync"]).exits(1).complains(&[
        "error: /var/lib/microvms/old: belongs to a VM that another program has installed, and user/old cannot replace it",
    ]);
    assert_eq!(in_guest(&host, "old", "echo I live"), "I live");
    host.run(&["stop", "old"]).exits(0);
    assert_eq!(host.machine.property("microvm@old.service", "Result"), "success");
    let log = host.log("old");
    assert!(log.contains("microvm-shutdown of ") && log.contains("guest: power button"), "{log}");
    assert!(!host.machine.path("/sys/class/net/old-tap").exists());
    for pattern in ["qemu-system", "virtiofsd"] {
        assert!(host.processes(pattern).is_empty(), "{pattern}");
    }
    let after = (tree::read(&folder), tree::read(&host.machine.path("/opt/old")));
    tree::assert_same(&before.0, &after.0, "its folder");
    tree::assert_same(&before.1, &after.1, "its package");
    // sync does not remove a folder like that, when the VM directory of its name goes.
    fs::remove_dir_all(host.machine.path(&format!("{PARTITION}/svc/data/old"))).unwrap();
    host.sync();
    tree::assert_same(&before.0, &tree::read(&folder), "its folder");
}

/// Scripts that say who runs them, and do their part.
const SCRIPTS: [(&str, &str); 6] = [
    (
        "bin/tap-up",
        "#!/bin/sh
        set -e
        echo \"tap-up by $(id --user)\"
        ip tuntap add new-tap mode tap user microvm
        ip link set new-tap up
        ",
    ),
    (
        "bin/tap-down",
        "#!/bin/sh
        echo \"tap-down by $(id --user)\"
        ip link delete new-tap
        ",
    ),
    (
        "bin/virtiofsd-run",
        "#!/bin/sh
        echo \"virtiofsd-run by $(id --user)\"
        systemd-socket-activate --listen=\"$PWD/new-home.sock\" sleep 1000 &
        while ! [ -S new-home.sock ]; do sleep 0.02; done
        chown microvm new-home.sock
        systemd-notify --ready
        wait
        ",
    ),
    (
        "bin/microvm-run",
        "#!/bin/sh
        echo \"microvm-run by $(id --user --name)\"
        [ -L new-home.sock ] && [ -S new-home.sock ] && echo 'the share is served'
        trap 'echo terminated; exit 0' TERM
        while true; do sleep 0.1; done
        ",
    ),
    (
        "bin/microvm-console",
        "#!/bin/sh
        echo \"microvm-console by $(id --user --name) in $(pwd)\"
        ",
    ),
    // It counts less than a script.
    ("share/microvm/tap-interfaces", "new-tap\nanother-tap\n"),
];

#[test]
fn a_package_with_scripts_of_its_own() {
    needs!(is_possible());
    let host = Host::new();
    install(&host, "new", &SCRIPTS);
    host.run(&["start", "new"]).exits(0).says_nothing();
    let said = |unit: &str| host.machine.journal(&format!("{unit}@new.service"));
    wait_for("its own program", || said("microvm").contains("the share is served").then_some(()));
    assert!(said("microvm").contains("microvm-run by microvm\n"));
    assert!(said("microvm-tap-interfaces").contains("tap-up by 0\n"));
    assert!(said("microvm-virtiofsd").contains("virtiofsd-run by 0\n"));
    assert!(host.machine.path("/sys/class/net/new-tap").exists());
    assert!(!host.machine.path("/sys/class/net/another-tap").exists());
    // Its script would get root's terminal as the VM's user.
    host.run(&["console", "new"]).exits(1).complains(&["has no console that this program knows"]);
    // Without a microvm-shutdown, it is a signal that stops it.
    host.run(&["stop", "new"]).exits(0);
    assert!(said("microvm").contains("terminated\n"));
    assert!(said("microvm-tap-interfaces").contains("tap-down by 0\n"));
    assert!(!host.machine.path("/sys/class/net/new-tap").exists());
    assert!(host.processes("sleep 1000").is_empty());

    // What root would execute must be root's, also by way of a link.
    host.machine.write("/srv/elsewhere", "#!/bin/sh\ntouch /run/microvm-spectrum/owned\n");
    host.ok(&["chmod", "755", "/srv/elsewhere"]);
    let to_link = "mv /opt/new/bin/tap-up /opt/new/tap-up; ln -s /srv/elsewhere /opt/new/bin/tap-up";
    let cases = [
        ("chmod 775 /opt/new/bin", "chmod 755 /opt/new/bin", "/opt/new/bin"),
        ("chown 4242 /opt/new/bin", "chown 0 /opt/new/bin", "/opt/new/bin"),
        ("chmod 757 /opt/new/bin/tap-up", "chmod 755 /opt/new/bin/tap-up", "/opt/new/bin/tap-up"),
        (
            "chown microvm /opt/new/bin/virtiofsd-run",
            "chown 0 /opt/new/bin/virtiofsd-run",
            "/opt/new/bin/virtiofsd-run",
        ),
        (
            &format!("{to_link}; chown 4242 /srv/elsewhere"),
            "mv /opt/new/tap-up /opt/new/bin/tap-up",
            "/srv/elsewhere",
        ),
    ];
    for (bad, good, part) in cases {
        let change = |script: &str| host.ok(&["sh", "-c", script]);
        change(bad);
        host.ok(&["journalctl", "--sync"]);
        let before = host.run(&["log", "--all", "new"]).stdout;
        host.run(&["start", "new"]).exits(3);
        host.ok(&["journalctl", "--sync"]);
        let log = host.run(&["log", "--all", "new"]).stdout;
        let more = log.strip_prefix(&before).unwrap_or(&log);
        assert!(more.contains(&format!("another user could change {part} (owner ")), "{bad}: {more}");
        assert!(!more.contains("microvm-run by"), "{bad}: {more}");
        assert!(!host.machine.path("/run/microvm-spectrum/owned").exists(), "{bad}");
        change(good);
    }
    host.run(&["start", "new"]).exits(0).says_nothing();
}
