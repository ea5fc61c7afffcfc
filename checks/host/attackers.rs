// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What an attacker can do who has taken over a virtual machine monitor: who has
//! a VM's user id, outside of its unit and in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use crate::support::guest::part;
use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::links::in_namespace;
use crate::support::program::Ran;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::terminal::Terminal;
use crate::support::waiting::wait_for;

/// The user id of `appvm`, the first that `sync` gives.
const ATTACKER: u32 = 70_000;
/// That of `victim`.
const VICTIM: u32 = 70_001;

/// In a script: does what must be refused for lack of permission, says so when
/// it is not, and counts.
const TRY: &str = r#"
attempts=0
try() {
    attempts=$((attempts + 1))
    if said=$("$@" 2>&1 </dev/null); then echo "succeeded: $*"; return; fi
    case $said in
    *[Pp]'ermission denied'* | *'not permitted'* | *'Read-only file system'*) ;;
    *) echo "failed for another reason: $*: $said" ;;
    esac
}
"#;

/// `appvm`, and a `victim` with a share and a tap.
fn attacker_and_victim() -> Host {
    let host = Host::new();
    host.vm_with_share("appvm");
    host.vm_with_share("victim");
    let victim = host.machine.path(&format!("{PARTITION}/svc/data/victim"));
    fs::create_dir_all(victim.join("providers/net")).unwrap();
    fs::write(victim.join("providers/net/appvm"), "").unwrap();
    host.sync();
    assert_eq!((&host.row("appvm")["uid"], &host.row("victim")["uid"]), (&ATTACKER.into(), &VICTIM.into()));
    host
}

/// Runs a shell script with a VM's user id.
fn script_as(host: &Host, uid: u32, script: &str) -> Ran {
    host.machine.try_as(uid, uid, &["sh", "-c", script])
}

/// Runs a shell script with this user id in the network of VMs.
fn script_in_network(host: &Host, uid: u32, script: &str) -> Ran {
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let mut line = vec!["setpriv", &user, &group, "--clear-groups", "--bounding-set=-all"];
    line.extend(["--inh-caps=-all", "--no-new-privs", "sh", "-c", script]);
    host.machine.run(&in_namespace(&line))
}

/// Runs a shell script with `appvm`'s user id where its programs run: in their
/// control group, with the file systems that they see.
fn script_in_unit(host: &Host, script: &str) -> Ran {
    let property = |name| host.machine.property("microvm@appvm.service", name);
    let enter = "echo 0 >\"/sys/fs/cgroup$1/cgroup.procs\" && shift && exec \"$@\"";
    let become_attacker = format!("--reuid={ATTACKER} --regid={ATTACKER}");
    let (group, pid) = (property("ControlGroup"), property("MainPID"));
    let mut line =
        vec!["sh", "-c", enter, "sh", &group, "nsenter", "--target", &pid, "--mount", "--net", "setpriv"];
    line.extend(become_attacker.split(' '));
    line.extend(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    line.extend(["sh", "-c", script]);
    host.machine.run(&line)
}

/// Asserts that a script of so many attempts ran to its end, and all were refused.
#[track_caller]
fn all_refused(ran: &Ran, attempts: usize) {
    assert_eq!(ran.stdout, format!("{attempts} attempts\n"), "{}", ran.stderr);
}

/// Everything about all that a VM's user could have an eye on, but for times.
fn state_of_host(host: &Host) -> BTreeSet<String> {
    let roots =
        ["/var/lib/microvms", "/run/microvm", "/run/microvm-virtiofsd", "/run/microvm-spectrum", PARTITION];
    let more = ["/run/userdb", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd"];
    let line: Vec<_> = ["find"].into_iter().chain(roots).chain(more).collect();
    let found = host.ok(&[line.as_slice(), &["-printf", "%p %y %U:%G %m %l\n"]].concat());
    found.lines().map(str::to_owned).collect()
}

/// The processes of a unit.
fn processes_of(host: &Host, unit: &str) -> Vec<String> {
    let group = host.machine.property(unit, "ControlGroup");
    let found = host.ok(&["cat", &format!("/sys/fs/cgroup{group}/cgroup.procs")]);
    found.lines().map(str::to_owned).collect()
}

/// The package that a VM runs from.
fn package_of(host: &Host, name: &str) -> String {
    host.ok(&["readlink", "-f", &format!("/var/lib/microvms/{name}/current")])
}

/// The name of a VM's one tap.
fn tap_of(host: &Host, name: &str) -> String {
    host.machine.read(&format!("{}/share/microvm/tap-interfaces", package_of(host, name))).trim().to_owned()
}

#[test]
fn who_has_a_vms_user_id_reaches_nothing_of_others() {
    needs!(is_possible());
    let host = attacker_and_victim();
    host.start("victim");
    host.wait_boots("appvm", 1);
    let before = state_of_host(&host);
    let units = ["microvm@appvm.service", "microvm@victim.service"];
    let status = || {
        let properties = "--property=ActiveState,SubState,StatusText,MainPID,NRestarts,Result";
        host.ok(&["systemctl", "show", properties, units[0], units[1]])
    };
    let status_before = status();

    nothing_can_be_replaced(&host);
    no_socket_and_no_tap_of_another(&host);
    no_process_of_another(&host);
    nobody_is_told_lies(&host);

    let after = state_of_host(&host);
    assert_eq!(after.symmetric_difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(status(), status_before);
    assert_eq!(host.in_guest("victim", "echo I live"), "I live");
}

/// Neither what root executes nor what tells it what to do.
fn nothing_can_be_replaced(host: &Host) {
    let package = package_of(host, "appvm");
    let own = "/var/lib/microvms/.microvm-spectrum";
    let generation = host.ok(&["readlink", "-f", &format!("{own}/current")]);
    let mut paths: Vec<String> = [
        "/var/lib/microvms",
        "/var/lib/microvms/appvm",
        "/var/lib/microvms/appvm/current",
        "/var/lib/microvms/appvm/booted",
        "/var/lib/microvms/victim",
        "/var/lib/microvms/victim/current",
        "/var/lib/microvms/victim/booted",
        "/run/microvm",
        "/run/microvm/victim",
        "/run/microvm-virtiofsd",
        "/run/microvm-virtiofsd/appvm",
        "/run/microvm-virtiofsd/victim",
        "/run/microvm-spectrum/links",
        "/run/microvm-spectrum/links/appvm",
        "/run/userdb",
        "/run/userdb/microvm-70000.user",
        "/run/systemd/system",
        "/run/systemd/generator/microvm@appvm.service.d",
        "/etc/microvm-spectrum/config.toml",
        "/usr/local/lib/systemd/system/microvm@.service",
        INSTALLED,
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend(
        ["", "/current", "/generations", "/packages", "/leases.json", "/lock"].map(|p| own.to_owned() + p),
    );
    paths.extend(["", "/catalog.json", "/vms", "/vms/appvm"].map(|p| generation.clone() + p));
    let parts = ["", "/bin", "/bin/microvm-run", "/share/microvm", "/share/microvm-spectrum/manifest.json"];
    paths.extend(parts.map(|p| package.clone() + p));
    paths.extend(
        ["/vmlinux", "/svc/data/appvm", "/svc/data/appvm/shared-dirs/home/dir"]
            .map(|p| PARTITION.to_owned() + p),
    );
    // Removing is tried by rmdir and unlink, which remove nothing that is full.
    let script = format!(
        "{TRY}
        for path; do
            try mv -T \"$path\" \"$path.moved\"
            try ln -s /tmp \"${{path%/*}}/evil\"
            try chown -h {ATTACKER} \"$path\"
            if [ -L \"$path\" ]; then
                try unlink \"$path\"
            elif [ -d \"$path\" ]; then
                try chmod 777 \"$path\"
                try touch \"$path/evil\"
                try mv -T \"$path\" \"$path.moved\"
            else
                try chmod 777 \"$path\"
                try sh -c 'exec >>\"$1\"' sh \"$path\"
                try unlink \"$path\"
            fi
        done
        # What belongs to it stays where it is.
        for path in /run/microvm/appvm /run/microvm-virtiofsd/appvm/appvm.virtiofs-0.sock; do
            try mv -T \"$path\" \"$path.moved\"
            try chown 0 \"$path\"
        done
        try ln -s /etc /run/microvm/another
        try mkdir /run/microvm-virtiofsd/another
        # A process that holds this lock keeps VMs from being started and installed.
        try flock --nonblock {own}/lock true
        echo \"$attempts attempts\""
    );
    let is_link = |path: &str| host.machine.path(path).is_symlink();
    let expected = paths.iter().map(|path| if is_link(path) { 4 } else { 6 }).sum::<usize>() + 7;
    let line: Vec<_> =
        ["sh", "-c", &script, "sh"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    all_refused(&host.machine.try_as(ATTACKER, ATTACKER, &line), expected);
    // The same in the unit, where the paths are those of the script itself.
    let quoted: Vec<_> = paths.iter().map(|path| format!("'{path}'")).collect();
    all_refused(&script_in_unit(host, &format!("set -- {}\n{script}", quoted.join(" "))), expected);
}

fn no_socket_and_no_tap_of_another(host: &Host) {
    let qemu = part("QEMU");
    let tap = |name: &str| {
        format!(
            "timeout 20 {} -nodefaults -display none -machine none -netdev \
             tap,id=n,ifname={name},script=no,downscript=no",
            qemu.display()
        )
    };
    let victims = tap_of(host, "victim");
    let script = format!(
        "{TRY}
        for name in control console supervisor; do
            try logger --socket-errors=on --socket /run/microvm/victim/victim.$name.sock hello
        done
        try logger --socket-errors=on --socket /run/microvm-virtiofsd/victim/victim.virtiofs-0.sock hello
        try ls /run/microvm/victim/
        try ls /run/microvm-virtiofsd/victim/victim.virtiofs-0.sock.mount/
        try {INSTALLED} console victim
        try {INSTALLED} sync
        try {}
        try {}
        try ip link set {victims} down
        try ip link delete {victims}
        try ip tuntap add dev evil mode tap
        # It can do that to itself.
        logger --socket-errors=on --socket /run/microvm/appvm/appvm.control.sock hello || echo 'not even its own'
        echo \"$attempts attempts\"",
        tap(&victims),
        tap("evil"),
    );
    all_refused(&script_in_network(host, ATTACKER, &script), 13);
    // It is the owner that counts: who owns it gets as far as that it is in use.
    let ran = script_in_network(host, VICTIM, &tap(&victims));
    assert!(ran.stderr.contains("Device or resource busy"), "{}", ran.stderr);
}

fn no_process_of_another(host: &Host) {
    let units =
        ["microvm@victim.service", "microvm-virtiofsd@victim.service", "microvm-virtiofsd@appvm.service"];
    let mut processes: Vec<_> = units.iter().flat_map(|unit| processes_of(host, unit)).collect();
    assert!(processes.len() >= 6, "{processes:?}");
    // Root, who has become the attacker's user while it is attached to its console.
    let terminal = &mut Terminal::start(&host.machine.command(INSTALLED, ["console", "appvm"]), 24, 80);
    terminal.wait_for("attached to the console of appvm");
    let console = host.processes("microvm-spectrum console appvm");
    assert_eq!(console.len(), 1, "{console:?}");
    assert_eq!(host.ok(&["ps", "-o", "uid=", "-p", &console[0]]).trim(), ATTACKER.to_string());
    let script = format!(
        "{TRY}
        inspect() {{
            try cat /proc/$1/environ
            try cat /proc/$1/maps
            try head -c 1 /proc/$1/mem
            try ls /proc/$1/fd/
            try ls /proc/$1/cwd/
            try ls /proc/$1/root/
            try nsenter --target $1 --mount true
        }}
        for process in {}; do
            inspect $process
            try kill -KILL $process
            try prlimit --pid $process --nofile=1:1
        done
        inspect {}
        echo \"$attempts attempts\"",
        processes.join(" "),
        console[0],
    );
    all_refused(&script_as(host, ATTACKER, &script), processes.len() * 9 + 7);
    terminal.type_text("\x1d");
    assert!(terminal.end().success());
    // In its unit it does not even see them.
    let seen = script_in_unit(host, "stat --format=%u /proc/[0-9]* | sort --unique");
    assert_eq!(seen.stdout, format!("{ATTACKER}\n"), "{}", seen.stderr);
    // It can do that to itself, so that it was not for another reason.
    processes = processes_of(host, "microvm@appvm.service");
    let own = format!("cat /proc/$$/maps && kill -0 {}", processes[0]);
    script_as(host, ATTACKER, &own).exits(0);
}

/// systemd believes only a unit's own main process, and takes no orders.
fn nobody_is_told_lies(host: &Host) {
    let pid = host.machine.property("microvm@victim.service", "MainPID");
    let script = format!(
        "export NOTIFY_SOCKET=/run/systemd/notify
        systemd-notify --pid={pid} --status=lie
        systemd-notify --pid=1 --ready --status=lie STOPPING=1 ERRNO=5 WATCHDOG=trigger
        for verb in stop restart kill reset-failed; do
            timeout 20 systemctl --no-ask-password $verb microvm@victim.service && echo \"done: $verb\"
        done
        timeout 20 systemctl --no-ask-password set-property --runtime microvm@victim.service CPUQuota=1% && echo done
        journalctl --quiet --no-pager --unit=microvm@victim.service"
    );
    assert_eq!(script_as(host, ATTACKER, &script).stdout, "");
    assert_eq!(script_in_unit(host, &script).stdout, "");
    // systemd takes messages in their order, and this is how they look when it believes them.
    let control = "systemd-notify --ready --status=truth; exec sleep 100";
    host.ok(&[
        "systemd-run",
        "--quiet",
        "--unit=control",
        "--property=Type=notify",
        "--property=NotifyAccess=all",
        &format!("--property=User={ATTACKER}"),
        "sh",
        "-c",
        control,
    ]);
    assert_eq!(host.machine.property("control.service", "StatusText"), "truth");
}

#[test]
fn what_a_vms_user_plants_in_its_directory_is_never_followed_by_root() {
    needs!(is_possible());
    let host = attacker_and_victim();
    host.machine.write("/etc/precious", "untouched\n");
    host.machine.write("/opt/precious/within", "untouched\n");
    // Reading would change that; a day later it would also without a change before.
    for file in ["/etc/precious", "/opt/precious/within"] {
        host.ok(&["touch", "-a", "-d", "2001-01-01", file]);
    }
    // Who connects to root's socket is seen.
    let listen = ["systemd-socket-activate", "--listen=/run/of-root.sock", "touch", "/run/was-connected"];
    host.ok(&[["systemd-run", "--quiet", "--unit=of-root"].as_slice(), &listen].concat());
    wait_for("root's socket", || host.machine.path("/run/of-root.sock").exists().then_some(()));
    host.ok(&["chmod", "600", "/run/of-root.sock"]);
    // What is missing is missing here, too.
    let outside = || {
        let paths = [
            "/etc/precious",
            "/opt/precious",
            "/opt/precious/within",
            "/etc/owned",
            "/run/of-root.sock",
            "/run/was-connected",
        ];
        let changes = ["stat", "--printf", "%n %F %u:%g %a %s %y %z\n"];
        let found = host.machine.run(&[changes.as_slice(), &paths].concat()).stdout;
        found + &host.ok(&["stat", "--printf", "%n %x\n", paths[0], paths[2]])
    };
    let before = outside();
    let plant = |script: &str| {
        script_as(&host, ATTACKER, &format!("set -e; cd /run/microvm/appvm\n{script}")).exits(0);
    };
    let console = || {
        let ran = host.machine.run(&["timeout", "20", INSTALLED, "console", "appvm"]);
        assert!(ran.status != 0 && ran.status != 124, "{ran:?}");
        ran.stderr
    };
    let look = || {
        assert_eq!(host.state("appvm"), "running");
        host.run(&["log", "--all", "-n", "5", "appvm"]).exits(0);
    };
    let start = || {
        let boots = host.boots("appvm");
        host.run(&["start", "appvm"]).exits(0);
        host.wait_boots("appvm", boots + 1);
    };
    start();

    // Links to what is there, to what is not, and to root's socket.
    plant(
        "rm appvm.control.sock appvm.console.sock appvm.supervisor.sock appvm.virtiofs-0.sock
        ln -s /etc/owned appvm.console.lock
        ln -s /etc/precious appvm.control.lock
        ln -s /run/of-root.sock appvm.console.sock
        ln -s /run/of-root.sock appvm.control.sock
        ln -s /etc/precious appvm.supervisor.sock
        ln -s /etc/owned appvm.virtiofs-0.sock
        ln -s /etc/owned appvm.control.sock.lock
        ln -s /opt/precious directory
        ln -s /opt/precious booted
        ln -s /opt/precious current
        ln -s / root",
    );
    look();
    assert!(console().contains("cannot be locked"));
    plant("rm appvm.console.lock");
    assert!(console().contains("Permission denied"));
    let boots = host.boots("appvm");
    host.run(&["restart", "appvm"]).exits(0);
    host.wait_boots("appvm", boots + 1);
    assert_eq!(outside(), before);

    // What blocks who opens it, and what cannot be removed like a file.
    plant(
        "rm appvm.console.sock appvm.supervisor.sock appvm.virtiofs-0.sock
        mkfifo appvm.console.lock appvm.console.sock appvm.supervisor.sock appvm.control.sock.lock
        mkdir -p appvm.control.lock/full appvm.virtiofs-0.sock/full deep
        for i in 1 2 3 4 5 6 7 8 9; do mkdir -p deep/$i/$i/$i; done
        ln -s /opt/precious deep/link
        chmod 0 appvm.virtiofs-0.sock deep/1/1 deep
        ln -s /etc/precious 'with
line feed'",
    );
    look();
    assert!(console().contains("refused"));
    host.run(&["stop", "appvm"]).exits(0);
    assert!(!host.machine.path("/run/microvm/appvm").exists());
    assert_eq!(outside(), before);

    // The lock that the supervisor holds, taken away, while the unit restarts by itself.
    start();
    plant(
        "mv appvm.run.lock old.lock
        ln -s /etc/owned appvm.run.lock",
    );
    // Another process holds it, as far as one can see.
    assert_eq!(host.in_guest("appvm", "echo I live"), "I live");
    plant(
        "rm appvm.run.lock
        setsid sh -c 'exec flock appvm.run.lock sleep 1000' >/dev/null 2>&1 &
        while flock --nonblock appvm.run.lock true; do sleep 0.02; done",
    );
    let boots = host.boots("appvm");
    let monitors = host.ok(&["pgrep", "--full", "--uid", &ATTACKER.to_string(), "^[^ ]*qemu-system"]);
    host.ok(&["kill", "-KILL", &monitors]);
    host.wait_boots("appvm", boots + 1);
    assert_eq!(host.in_guest("appvm", "echo I live"), "I live");
    host.run(&["stop", "appvm"]).exits(0);
    assert_eq!(outside(), before);

    // Root's socket would have told.
    // Its listener may end before logger has said everything.
    host.machine.run(&["logger", "--socket-errors=on", "--socket", "/run/of-root.sock", "hello"]);
    wait_for("a connection", || host.machine.path("/run/was-connected").exists().then_some(()));
    assert_ne!(outside(), before);
}

#[test]
fn what_root_uses_only_root_can_replace() {
    needs!(is_possible());
    let host = attacker_and_victim();
    let state = "/var/lib/microvms";
    let package = package_of(&host, "victim");
    let generation = host.ok(&["readlink", "-f", &format!("{state}/.microvm-spectrum/current")]);
    let change = |command: &str, path: &str| {
        host.ok(&command.split(' ').chain([path]).collect::<Vec<_>>());
    };
    let (give, given, take) = ("chown -h 70000", "(owner 70000, ", "chown -h 0:0");
    let cases = [
        (give, given, take, package.clone()),
        ("chmod 775", "mode 775)", "chmod 755", package.clone()),
        ("chmod 775", "mode 775)", "chmod 755", format!("{state}/victim")),
        (give, given, take, format!("{state}/victim/current")),
        (give, given, take, format!("{state}/.microvm-spectrum/current")),
        ("chmod 777", "mode 777)", "chmod 755", format!("{generation}/vms")),
        ("chmod 777", "mode 777)", "chmod 755", format!("{state}/.microvm-spectrum/packages")),
        // As microvm.nix has them.
        ("chown microvm:kvm", "(owner ", take, state.to_owned()),
        ("chown microvm:kvm", "(owner ", take, format!("{state}/victim")),
        // These name the programs that root executes, and what it serves.
        (give, given, take, format!("{package}/share/microvm-spectrum/manifest.json")),
        ("chmod 775", "mode 775)", "chmod 755", format!("{package}/share/microvm-spectrum")),
        ("chmod 666", "mode 666)", "chmod 644", format!("{package}/share/microvm/tap-interfaces")),
    ];
    for (bad, found, good, part) in cases {
        change(bad, &part);
        let ran = host.run(&["start", "victim"]);
        assert_eq!(ran.status, 3, "{bad} {part}: {ran:?}");
        host.ok(&["journalctl", "--sync"]);
        let log = host.run(&["log", "--all", "victim"]).stdout;
        let said =
            |line: &str| line.contains(&format!("could change {part} (owner ")) && line.contains(found);
        assert!(log.lines().any(said), "{bad} {part}:\n{log}");
        assert_eq!(host.machine.run(&["pgrep", "--uid", &VICTIM.to_string()]).stdout, "", "{bad} {part}");
        change(good, &part);
    }
    host.start("victim");
}

/// A state directory of microvm.nix belongs to the user whom its VMs run as.
#[test]
fn a_state_directory_that_is_not_roots_is_not_used() {
    needs!(is_possible());
    let host = attacker_and_victim();
    host.machine.write("/opt/precious/within/file", "untouched\n");
    let microvm: u32 = host.ok(&["id", "--user", "microvm"]).parse().unwrap();
    host.ok(&["chown", "microvm:kvm", "/var/lib/microvms"]);
    let replace = "set -e
        cd /var/lib/microvms
        mv .microvm-spectrum was
        mkdir -p .microvm-spectrum/generations/1
        ln -s generations/1 .microvm-spectrum/current
        ln -s /opt/precious .microvm-spectrum/packages
        sed 's/\\<7000/7100/' was/current/catalog.json >.microvm-spectrum/current/catalog.json
        mkdir -p pipe/current/share/microvm link/current/share/microvm
        mkfifo pipe/current/share/microvm/hypervisor
        ln -s /etc/shadow link/current/share/microvm/hypervisor";
    script_as(&host, microvm, replace).exits(0);
    // What it names would be removed, since no VM uses it.
    host.run(&["sync"]).exits(1).complains(&["/var/lib/microvms", "another user could change"]);
    assert_eq!(host.machine.read("/opt/precious/within/file"), "untouched\n");
    assert_eq!(fs::read_dir(host.machine.path("/opt/precious")).unwrap().count(), 1);
    // The generator neither takes a user from there.
    host.ok(&["systemctl", "daemon-reload"]);
    for name in ["appvm", "victim"] {
        assert_eq!(host.machine.property(&format!("microvm@{name}.service"), "User"), "microvm");
    }
    // Nor is anything read that another user links to, or that waits to be read.
    let list = host.machine.run(&["timeout", "20", INSTALLED, "list"]).exits(0).stdout;
    assert!(list.contains("pipe") && list.contains("link") && !list.contains("root:"), "{list}");
}

/// The sandbox as a whole: what a VM's unit runs is the attack.
#[test]
fn what_runs_in_a_vms_unit_writes_in_its_own_directory_alone() {
    needs!(is_possible());
    let host = Host::new();
    // What everybody may write to.
    host.ok(&["mkdir", "--mode=1777", "/srv/everybodys"]);
    // Its user has an account.
    host.vm("appvm");
    host.sync();
    let script = format!(
        "#!/bin/sh
        {TRY}
        # Each file system that can be written to, and each directory in it.
        while read -r _ _ _ _ path options _; do
            case $options in ro,*) continue ;; esac
            find \"$path\" -xdev -type d -writable 2>/dev/null
        done </proc/self/mountinfo | grep -v '^/proc' | sort --unique | sed 's/^/writable: /'
        for kind in user mount net pid uts ipc cgroup; do try unshare --$kind true; done
        try touch /srv/everybodys/evil
        try mknod /tmp/evil c 1 3
        touch /tmp/file
        try chmod 4755 /tmp/file
        try chmod 2755 /tmp/file
        try dmesg
        try sh -c 'exec >/dev/kmsg'
        try chrt --fifo 1 true
        try prlimit --core=unlimited
        try cat /etc/shadow
        stat --format=%u /proc/[0-9]* | sort --unique
        for path in /run/dbus /run/systemd/private /run/systemd/userdb /run/udev /run/user; do
            [ ! -e $path ] || stat --format='%a %n' $path
        done | grep -v '^0 '
        # The host's memory and disk are not what it fills.
        for directory in /run/microvm/attack /tmp /var/tmp; do
            head -c 16M /dev/zero >$directory/full && echo \"fills $directory\"
            rm $directory/full
            number=0
            while [ $number -lt 300 ] && true >$directory/$number; do number=$((number + 1)); done
            [ $number -lt 300 ] || echo \"crowds $directory\"
            rm -f $directory/[0-9]*
        done 2>/dev/null
        (true >/dev/mqueue/queue) 2>/dev/null && echo 'makes a message queue'
        echo \"$attempts attempts\"
        exec sleep 1000"
    );
    host.machine.write("/opt/attack/bin/microvm-run", &script);
    host.ok(&["chmod", "755", "/opt/attack/bin/microvm-run"]);
    host.machine.mkdir("/var/lib/microvms/attack");
    for directory in ["/run/dbus", "/run/user/1000"] {
        host.machine.mkdir(directory);
    }
    symlink("/opt/attack", host.machine.path("/var/lib/microvms/attack/current")).unwrap();
    let user = format!("[Service]\nUser={ATTACKER}\nGroup={ATTACKER}\n");
    host.machine.write("/run/systemd/system/microvm@attack.service.d/user.conf", &user);
    host.ok(&["systemctl", "daemon-reload"]);
    host.run(&["start", "attack"]).exits(0);
    let log = wait_for("the end of the attack", || {
        Some(host.log("attack")).filter(|log| log.contains(" attempts\n"))
    });
    assert_eq!(
        log,
        format!(
            "writable: /dev/mqueue\nwritable: /run/microvm/attack\nwritable: /tmp\nwritable: /var/tmp\n\
             {ATTACKER}\n16 attempts\n"
        )
    );
    // The host reaches what is in there, and nothing of it is left.
    host.machine.write("/run/microvm/attack/from-host", "");
    host.run(&["stop", "attack"]).exits(0);
    wait_for("the end of its directory", || {
        (!host.machine.path("/run/microvm/attack").exists()).then_some(())
    });
    let mounts = host.ok(&["cat", "/proc/1/mountinfo"]);
    assert!(!mounts.contains("/run/microvm/attack"), "{mounts}");
}
