// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the guest sees: Spectrum's devices, and nothing else.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::support::guest::GUEST_USER;
use crate::support::running_vm::{Place, Running, kill};
use crate::support::skip::{is_root, needs, root, skipped};
use crate::support::waiting::wait_for;

#[test]
fn guest_has_spectrums_devices() {
    let place = Place::new();
    let shared = place.shared("home");
    let mut data = b"second image".to_vec();
    data.resize(1 << 20, 0);
    // Made first, so that the file system may list it first.
    let vm = place.partition.vm("devices").image("z-data.img", &data);
    fs::remove_dir_all(&vm.path).unwrap();
    let vm = place.vm("devices").image("z-data.img", &data).share("home", "/ext/home");
    let package = place.build(&vm, &[]);
    let run = place.run_directory("run");
    let mut running = Running::start(&package, &run);
    running.type_into("typed at the supervisor\n");
    running.wait_until_up();
    running.messages.wait_for("devices: running in qemu (tcg)");

    // Images: in sorted order, read-only, root by PARTLABEL.
    let root_bytes = vm.path.join("blk/root.img").metadata().unwrap().len();
    let serial = running.serial.text();
    for fact in [
        "guest: cmdline console=ttyS0 root=PARTLABEL=root no_timer_check lpj=1000000\n".to_owned(),
        format!("guest: vda ro=1 bytes={root_bytes}\n"),
        "guest: vdb ro=1 bytes=1048576\n".to_owned(),
        "guest: root vda1\n".to_owned(),
    ] {
        assert!(serial.contains(&fact), "{fact:?} is not in\n{serial}");
    }
    assert!(!serial.contains("vdc"), "{serial}");
    // Nothing whose frequency a processor of TCG that stands still at times would get wrong.
    assert!(!serial.contains("tsc:"), "{serial}");

    let mut shell = running.console();
    assert_eq!(shell.run("echo back"), "back");
    assert_eq!(shell.run("head -c 12 /dev/vdb"), "second image");
    assert!(shell.run("echo x >/dev/vda; echo status $?").ends_with("status 1"), "vda can be written");

    // The share: by its tag, both ways, always as one user of the host.
    assert_eq!(shell.run("mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    assert_eq!(shell.run("echo from the guest >/mnt/from-guest; cat /mnt/from-guest"), "from the guest");
    assert_eq!(fs::read_to_string(shared.join("from-guest")).unwrap(), "from the guest\n");
    let owner = fs::metadata(shared.join("from-guest")).unwrap().uid();
    let expected = if is_root() { GUEST_USER } else { rustix::process::geteuid().as_raw() };
    assert_eq!(owner, expected, "files of the guest's root belong to the share's owner");
    symlink("/etc/passwd", shared.join("out")).unwrap();
    assert!(!shell.run("cat /mnt/out /mnt/../etc/shadow 2>&1").contains("root:"), "the share leads out");
    assert_ne!(shell.run("mount-share other /mnt2 2>/dev/null; echo $?"), "0", "there is a share too many");

    // Nothing else: no network, no disk controller with something on it.
    assert_eq!(shell.run("ls /sys/class/net | grep -v -e lo -e sit; ls /sys/class/block | grep -v vd"), "");

    // The serial console takes no input, from wherever it comes.
    running.type_into("typed again\n");
    shell.send("typed at hvc0\n");
    shell.run("sleep 1");
    drop(shell);

    assert!(running.shutdown().success());
    let ended = running.end();
    ended.assert(0, "the guest powered off");
    assert!(ended.serial.contains("guest: power button"), "{}", ended.serial);
    assert!(!ended.serial.contains("ttyS0 got"), "{}", ended.serial);
    assert!(!ended.serial.contains("typed"), "{}", ended.serial);
}

#[test]
fn hostile_names_boot_unchanged() {
    let place = Place::new();
    let odd = "a b,c=d[e]'f\"g%h\\i\nj ü🦀";
    let tag = "t,x=\"y\" %ü";
    let vm = place.vm("odd-names");
    fs::rename(vm.path.join("blk/root.img"), place.partition.root.join(odd)).unwrap();
    let vm = vm.image_link(format!("{odd}.img"), format!("/ext/{odd}"));
    place.shared(",readonly=off");
    let vm = vm.share(tag, "/ext/,readonly=off");
    let package = place.build(&vm, &[]);
    let mut running = Running::start(&package, &place.run_directory("run here, too"));
    running.wait_until_up();
    let mut shell = running.console();
    let quoted = tag.replace('"', "\\\"");
    assert_eq!(
        shell.run(&format!("mount-share \"{quoted}\" /mnt; cat /mnt/from-host")),
        "hello from the host"
    );
    drop(shell);
    assert!(running.shutdown().success());
    running.end().assert(0, "the guest powered off");
}

#[test]
fn what_the_guest_prints_is_escaped() {
    let place = Place::new();
    let package = place.build(&place.vm("printer"), &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    let mut shell = running.console();
    shell.run(r"printf '<0>bell \007 clear \033[2J cut \303\n' >/dev/console");
    running.serial.wait_for("<0>bell \\u{7} clear \\u{1b}[2J cut \\xc3\n");
    drop(shell);
    assert!(running.shutdown().success());
    let ended = running.end();
    ended.assert(0, "the guest powered off");
    assert!(ended.serial.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
}

/// In a network and mount namespace of its own, makes taps for root.
const IN_A_NETWORK: &str =
    "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && export MICROVM_SPECTRUM_USER=0";

#[test]
fn a_link_gives_the_client_its_interface() {
    needs!(root("can make a network namespace"));
    let place = Place::new();
    let vm = place.vm("client").provider("netvm");
    let package = place.build(&vm, &[]);
    let tap = fs::read_to_string(package.join("share/microvm/tap-interfaces")).unwrap().trim().to_owned();
    let run = place.run_directory("run");
    let refused = Running::start(&package, &run).end();
    refused.assert(3, "the host lacks what the VM needs");
    // What it says makes it. The records for providers go where no other test sees them.
    assert!(refused.messages.contains("bin/tap-up as root, with MICROVM_SPECTRUM_USER=0"));
    let script = format!("{IN_A_NETWORK} && {}/bin/tap-up && exec \"$0\"", package.display());
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "--mount", "--", "sh", "-c", &script]).arg(package.join("bin/microvm-run"));
    command.current_dir(&run);
    let mut running = Running::spawn(&package, &run, command);
    running.wait_until_up();
    let id = tap.strip_prefix("vmc-").unwrap();
    let mac = format!("guest: eth0 mac=0a:b3:ec:00:{}:{}\n", &id[..2], &id[2..]);
    assert!(running.serial.text().contains(&mac), "{mac:?} is not in\n{}", running.serial.text());
    assert!(running.shutdown().success());
    running.end().assert(0, "the guest powered off");
}

#[test]
fn as_many_devices_as_a_vm_can_have() {
    let place = Place::new();
    let vm = place.vm("many");
    let vm = (1..12).fold(vm, |vm, n| vm.image(format!("x{n:02}.img"), &[0; 512]));
    let vm = (0..8).fold(vm, |vm, n| {
        let name = format!("share{n}");
        place.shared(&name);
        vm.share(&name, format!("/ext/{name}"))
    });
    let mut providers = 0;
    let vm = if is_root() {
        providers = 4;
        (0..4).fold(vm, |vm, n| vm.provider(&format!("net{n}")))
    } else {
        skipped("as_many_devices_as_a_vm_can_have, its links", "only root can make a network namespace");
        vm
    };
    let package = place.build(&vm, &[]);
    let run = place.run_directory("run");
    let mut running = if providers > 0 {
        let script = format!("{IN_A_NETWORK} && {}/bin/tap-up && exec \"$0\"", package.display());
        let mut command = std::process::Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-c", &script]).arg(package.join("bin/microvm-run"));
        command.current_dir(&run);
        Running::spawn(&package, &run, command)
    } else {
        Running::start(&package, &run)
    };
    running.wait_until_up();
    let serial = running.serial.text();
    assert!(serial.contains("guest: vdl ro=1 bytes=512\n"), "{serial}");
    assert_eq!(serial.matches("guest: virtiofs virtio").count(), 8, "{serial}");
    assert_eq!(serial.matches(" mac=0a:b3:ec:00:").count(), providers, "{serial}");
    let mut shell = running.console();
    assert_eq!(shell.run("mount-share share7 /mnt; cat /mnt/from-host"), "hello from the host");
    drop(shell);
    assert!(running.shutdown().success());
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_guests_root_is_an_ordinary_user_of_the_host() {
    needs!(root("can become another user"));
    let place = Place::new();
    let shared = place.shared("home");
    for (name, mode) in [("secret", 0o600), ("program", 0o755)] {
        fs::write(shared.join(name), "of the host's root\n").unwrap();
        fs::set_permissions(shared.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let of_root = place.shared("of-root");
    std::os::unix::fs::chown(&of_root, Some(0), Some(0)).unwrap();
    let vm = place.vm("guest-root").share("home", "/ext/home").share("of-root", "/ext/of-root");
    let package = place.build(&vm, &[]);
    let mut running = Running::start(&package, &place.run_directory("run"));
    running.wait_until_up();
    let mut shell = running.console();
    shell.run("mount-share home /mnt; mount-share of-root /run/r");
    for attack in [
        "cat /mnt/secret",
        "chmod 777 /mnt/secret",
        "chown 0 /mnt/from-host && test -u /nonexistent",
        "echo x >/mnt/program",
        "chmod 4755 /mnt/program",
        "mknod /mnt/null c 1 3",
        "touch /run/r/new",
    ] {
        let said = shell.run(&format!("{attack} 2>&1; echo status $?"));
        assert!(!said.ends_with("status 0"), "{attack}: {said}");
        assert!(!said.contains("of the host's root"), "{attack}: {said}");
    }
    assert_eq!(shell.run("cp /bin/busybox /mnt/mine && chmod 4755 /mnt/mine && echo made"), "made");
    drop(shell);
    let mine = fs::metadata(shared.join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (GUEST_USER, GUEST_USER));
    assert_eq!(fs::read_to_string(shared.join("program")).unwrap(), "of the host's root\n");
    assert_eq!(fs::metadata(shared.join("secret")).unwrap().mode() & 0o7777, 0o600);
    assert!(running.shutdown().success());
    running.end().assert(0, "the guest powered off");
}

#[test]
fn a_port_of_the_host_leads_to_a_guest_with_an_uplink_and_passt_ends_with_it() {
    let place = Place::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let forward = format!("--port=127.0.0.1:{port}:80");
    let package = place.build(&place.vm("netvm"), &["--uplink", &forward]);
    let run = place.run_directory("run");
    // passt never runs as root, but as nobody.
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
    let mut running = Running::start(&package, &run);
    running.wait_until_up();
    let mut shell = running.console();
    let network = "ip link set eth0 up; ip address add 192.0.0.2/29 dev eth0";
    shell.run(&format!("{network}; ping -c 1 -W 1 192.0.0.1; echo hello >/tmp/index.html; httpd -h /tmp"));
    let fetched = wait_for("an answer of the guest", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok().filter(|_| text.contains("\r\n\r\n"))?;
        Some(text)
    });
    assert!(fetched.ends_with("hello\n"), "{fetched}");
    drop(shell);
    kill(running.process("passt"), "KILL");
    running.end().assert(7, "passt, which connects it to the host's network, ended");
    let mut again = Running::start(&package, &run);
    again.wait_until_up();
    assert!(again.shutdown().success());
    again.end().assert(0, "the guest powered off");
}
