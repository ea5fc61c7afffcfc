// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a guest does to its host: by its shares, by what it prints, and by the
//! links of a VM directory that another process changes all the time.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};

use crate::support::guest::GUEST_USER;
use crate::support::installed::{Host, PARTITION};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::{PATIENCE, wait_for};

/// The mount of a share as its virtiofsd has it: what it shows, and its options.
fn mount_of_share(host: &Host, name: &str, index: usize) -> (String, String) {
    let server = host.machine.property(&format!("microvm-virtiofsd@{name}.service"), "MainPID");
    let mounts = host.machine.read(&format!("/proc/{server}/mountinfo"));
    let point = format!("/{name}.virtiofs-{index}.sock.mount");
    let lines: Vec<Vec<_>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let found: Vec<_> = lines.iter().filter(|line| line[4].ends_with(&point)).collect();
    assert_eq!(found.len(), 1, "{mounts}");
    (found[0][3].to_owned(), found[0][5].to_owned())
}

/// Adds shared directories, before `appvm` starts, for an ordinary user of its guest: one that is that
/// user's there, and two like `/tmp`, of which one is, too.
fn share_with_user(host: &Host) {
    for (tag, owner, mode) in
        [("users", GUEST_USER, 0o755), ("tmp-of-root", 0, 0o1777), ("tmp-users", 0, 0o1777)]
    {
        let directory = host.machine.path(&format!("{PARTITION}/{tag}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("from-host"), "hello\n").unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        for path in [directory.clone(), directory.join("from-host")] {
            chown(path, Some(owner), Some(owner)).unwrap();
        }
        let entry = host.machine.path(&format!("{PARTITION}/svc/data/appvm/shared-dirs/{tag}"));
        fs::create_dir(&entry).unwrap();
        symlink(format!("/ext/{tag}"), entry.join("dir")).unwrap();
    }
    host.configure(
        "[vm.appvm.shares]\nusers = { guest-uid = 1000, guest-gid = 1001 }\ntmp-users = { guest-uid = 1000 }\n",
    );
}

/// What an ordinary user of the guest can do where, and what is on the host then.
fn an_ordinary_user_of_the_guest(host: &Host) {
    let as_user = |directory: &str, command: &str| {
        host.in_guest("appvm", &format!("(cd {directory}; as-user 1000 sh -c '{command}' </dev/null 2>&1)"))
    };
    let on_host = |path: &str| {
        let path = host.machine.path(&format!("{PARTITION}/{path}"));
        let metadata = fs::metadata(&path).unwrap();
        (fs::read_to_string(&path).unwrap(), metadata.uid(), metadata.mode() & 0o7777)
    };
    host.in_guest(
        "appvm",
        "for tag in users tmp-of-root tmp-users; do mount-share $tag /tmp/$tag; done; \
         mkdir -m 777 /mnt/open; echo 2 >/proc/sys/fs/protected_regular",
    );
    // The directory is the user's.
    let answer = as_user(
        "/tmp/users",
        "stat -c %u:%g . from-host; echo new >new; echo more >>from-host; chmod 600 new; cat new from-host",
    );
    assert_eq!(
        answer.split_whitespace().collect::<Vec<_>>(),
        ["1000:1001", "1000:1001", "new", "hello", "more"]
    );
    assert_eq!(on_host("users/new"), ("new\n".into(), GUEST_USER, 0o600));
    assert_eq!(on_host("users/from-host"), ("hello\nmore\n".into(), GUEST_USER, 0o644));
    // The directory is root's, as without the settings: only root writes into it,
    let answer = as_user("/mnt", "stat -c %u:%g .; echo new >new");
    assert!(answer.starts_with("0:0") && answer.contains("can't create new: Permission denied"), "{answer}");
    assert!(!host.machine.path(&format!("{PARTITION}/shared-appvm/new")).exists());
    // or everyone, whose file is root's once it is there;
    let answer = as_user("/mnt/open", "touch new; echo more >>new");
    assert!(answer.contains("can't create new: Permission denied"), "{answer}");
    assert_eq!(on_host("shared-appvm/open/new"), (String::new(), GUEST_USER, 0o644));
    // and with the sticky bit of another's directory, the guest's kernel refuses to open what it has made.
    let answer = as_user("/tmp/tmp-of-root", "echo new >new");
    assert!(answer.contains("can't create new: Permission denied"), "{answer}");
    const NOBODY: u32 = 65534;
    assert_eq!(on_host("tmp-of-root/new"), (String::new(), NOBODY, 0o644));
    assert_eq!(as_user("/tmp/tmp-users", "echo new >new; cat new"), "new");
    assert_eq!(on_host("tmp-users/new"), ("new\n".into(), NOBODY, 0o644));
    host.in_guest("appvm", "rm -r /mnt/open");
}

#[test]
fn what_a_guest_makes_on_its_share_is_inert_on_the_host() {
    needs!(is_possible());
    let host = Host::new();
    let shared = host.vm_with_share("appvm");
    // What the host's user made for himself.
    let own = shared.join("own-program");
    fs::write(&own, "a program\n").unwrap();
    chown(&own, Some(GUEST_USER), Some(GUEST_USER)).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o6755)).unwrap();
    // A directory that its administrator lets no user write to, or execute from.
    host.ok(&["mkdir", "-p", "/srv/source", &format!("{PARTITION}/read-only")]);
    host.ok(&["touch", "/srv/source/file"]);
    host.ok(&["chown", "--recursive", &GUEST_USER.to_string(), "/srv/source"]);
    host.ok(&["mount", "--bind", "-o", "ro,noexec", "/srv/source", &format!("{PARTITION}/read-only")]);
    let entry = host.machine.path(&format!("{PARTITION}/svc/data/appvm/shared-dirs/read-only"));
    fs::create_dir(&entry).unwrap();
    symlink("/ext/read-only", entry.join("dir")).unwrap();
    // Something else that is mounted beneath what is shared.
    let mount_beneath = |name: &str| {
        let path = format!("{PARTITION}/shared-appvm/{name}");
        host.ok(&["mkdir", "-p", &path]);
        host.ok(&["mount", "-t", "tmpfs", "-o", "mode=777", "beneath", &path]);
        host.ok(&["touch", &format!("{path}/secret")]);
    };
    mount_beneath("mounted-before");
    share_with_user(&host);
    host.sync();
    host.start("appvm");
    mount_beneath("mounted-later");

    let answer = host.in_guest(
        "appvm",
        "mount-share home /mnt; mount-share read-only /tmp/ro; cd /tmp; \
         cp /bin/busybox program; chmod 6755 program; tar cf archive program; cd /mnt; \
         cp -p /tmp/program copied; tar xf /tmp/archive; cp /bin/busybox set-uid; chmod 4755 set-uid; \
         cp /bin/busybox set-gid; chmod 2755 set-gid; mkdir -m 2777 directory; chmod g+s directory; \
         mknod block b 8 0; mknod character c 1 3; mknod whiteout c 0 0; mkfifo pipe; \
         touch of-root; chown 0:0 of-root; touch of-another; chown 1000:1000 of-another; \
         ln -s /etc/shadow link; echo more >>own-program; \
         ls mounted-before mounted-later; touch mounted-later/from-guest; \
         touch /tmp/ro/evil; rm /tmp/ro/file; chmod 777 /tmp/ro/file; echo '<''refusals>'",
    );
    assert!(!answer.contains("secret"), "{answer}");
    assert_eq!(answer.matches("ead-only file system").count(), 3, "{answer}");
    for refused in ["block", "character", "set-uid", "set-gid"] {
        assert!(answer.contains(&format!(": {refused}: Operation not permitted")), "{refused}: {answer}");
    }
    assert!(!host.machine.path(&format!("{PARTITION}/shared-appvm/mounted-later/from-guest")).exists());

    let mut found = Vec::new();
    for entry in fs::read_dir(&shared).unwrap() {
        let entry = entry.unwrap();
        let (name, metadata) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap());
        if name.starts_with("mounted-") {
            continue;
        }
        let kind = metadata.file_type();
        assert!(!kind.is_block_device() && !kind.is_char_device(), "{name}: {metadata:?}");
        assert_eq!((metadata.uid(), metadata.gid()), (GUEST_USER, GUEST_USER), "{name}");
        assert_eq!(metadata.mode() & 0o7000, 0, "{name}");
        found.push(name);
    }
    found.sort();
    // What would have been set-user-id from the beginning is not made at all.
    let expected = [
        "directory",
        "from-host",
        "link",
        "of-another",
        "of-root",
        "own-program",
        "pipe",
        "set-gid",
        "set-uid",
    ];
    assert_eq!(found, expected, "{answer}");
    assert_eq!(fs::read_to_string(&own).unwrap(), "a program\nmore\n");
    an_ordinary_user_of_the_guest(&host);
    // Other users there are another VM, from its next start on.
    host.configure("[vm.appvm]\nguest-uid = 1000\n");
    host.sync();
    assert!(host.row("appvm")["detail"].as_str().unwrap().starts_with("stale: "), "{}", host.row("appvm"));

    // In the order of their tags.
    let (path, options) = mount_of_share(&host, "appvm", 0);
    assert!(path.ends_with("/shared-appvm"), "{path}");
    assert!(options.starts_with("rw,nosuid,nodev"), "{options}");
    let (path, options) = mount_of_share(&host, "appvm", 1);
    assert!(path.ends_with("/source"), "{path}");
    assert!(options.starts_with("ro,nosuid,nodev,noexec"), "{options}");
}

#[test]
fn a_link_swapped_while_it_is_served_never_leads_out() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    host.sync();
    // Only its directories are served, however often they change.
    host.machine.write(
        "/run/systemd/system/microvm-virtiofsd@appvm.service.d/alone.conf",
        "[Unit]\nStopWhenUnneeded=no\nStartLimitIntervalSec=0\n",
    );
    host.ok(&["systemctl", "daemon-reload"]);
    let unit = "microvm-virtiofsd@appvm.service";
    // The share's own link, and one that it leads through.
    let partition = host.machine.path(PARTITION);
    let entry = partition.join("svc/data/appvm/shared-dirs/home");
    symlink(".", partition.join("way")).unwrap();
    symlink("/etc", partition.join("way.out")).unwrap();
    let swapped = [
        (entry.join("dir"), "/ext/shared-appvm"),
        (entry.join("1"), "/etc"),
        (entry.join("2"), "/ext/way/shared-appvm"),
        (entry.join("3"), "../../../../../../../../../etc"),
    ];
    for (link, target) in &swapped[1..] {
        symlink(target, link).unwrap();
    }
    let swap =
        |one: &Path, other: &Path| rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    let stop = AtomicBool::new(false);
    let (mut served, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0_usize.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                swap(&swapped[0].0, &swapped[1 + turn % 3].0).unwrap();
                swap(&partition.join("way"), &partition.join("way.out")).unwrap();
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let deadline = Instant::now() + PATIENCE;
            while served < 10 || refused < 10 {
                assert!(Instant::now() < deadline, "served {served}, refused {refused}");
                if host.machine.run(&["systemctl", "restart", unit]).status != 0 {
                    refused += 1;
                    continue;
                }
                let (path, options) = mount_of_share(&host, "appvm", 0);
                assert!(path.ends_with("/shared-appvm"), "{path}");
                assert!(options.starts_with("rw,nosuid,nodev"), "{options}");
                let mount = "/run/microvm-virtiofsd/appvm/appvm.virtiofs-0.sock.mount";
                let server = host.machine.property(unit, "MainPID");
                let seen = fs::read_dir(host.machine.path(&format!("/proc/{server}/root{mount}"))).unwrap();
                let seen: Vec<_> = seen.map(|entry| entry.unwrap().file_name()).collect();
                assert_eq!(seen, ["from-host"]);
                served += 1;
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    // Not refused for another reason.
    host.ok(&["journalctl", "--sync"]);
    let journal = host.machine.journal("microvm@appvm.service");
    let said = journal.matches("outside of the places where links may lead").count();
    assert_eq!(said, refused, "{journal}");
}

/// What a VM's serial console has in the journal, entry by entry.
fn entries(host: &Host, name: &str) -> Vec<serde_json::Value> {
    host.ok(&["journalctl", "--sync"]);
    let unit = format!("--unit=microvm@{name}.service");
    let lines = host.ok(&["journalctl", "--quiet", "--no-pager", "--all", "--output=json", &unit]);
    let entries: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let identifier = format!("microvm@{name}");
    entries.into_iter().filter(|entry| entry["SYSLOG_IDENTIFIER"] == identifier.as_str()).collect()
}

#[test]
fn what_a_guest_prints_is_text_and_nothing_else() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.sync();
    host.start("appvm");
    host.in_guest(
        "appvm",
        "{ printf '<0>everybody\\n<3>error\\n<7>debug\\n'; \
         printf 'screen \\033[2J\\033]0;title\\007\\033P$q\\033\\\\ \\302\\233 31m\\n'; \
         printf 'bytes \\377\\376\\355\\240\\200 \\000nul\\000\\n'; \
         printf 'over\\rwritten \\b\\177 \\342\\200\\256txt \\342\\200\\250line\\n'; \
         printf 'PRIORITY=0\\nMESSAGE=field\\nSYSLOG_IDENTIFIER=microvm-spectrum\\n\\n'; \
         printf 'microvm-spectrum: appvm: the guest powered off\\n'; \
         printf 'Jan 01 00:00:00 box microvm-spectrum[1]: appvm: the guest powered off\\n'; \
         head -c 100000 /dev/zero | tr '\\000' L; printf '\\nthe end of the attack\\n'; } >/dev/console",
    );
    wait_for("all that it printed", || host.log("appvm").contains("the end of the attack").then_some(()));
    let (log, all) = (host.log("appvm"), host.run(&["log", "--all", "appvm"]).stdout);
    for text in [&log, &all] {
        let control = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        assert_eq!(control, None, "{text:?}");
        assert!(!text.contains(['\u{202e}', '\u{2028}']), "{text:?}");
        for escaped in [
            "<0>everybody\n",
            "<3>error\n",
            r"screen \u{1b}[2J\u{1b}]0;title\u{7}\u{1b}P$q",
            r"bytes \xff\xfe\xed\xa0\x80 \0nul\0",
            r"overwritten \u{8}\u{7f} \u{202e}txt \u{2028}line",
        ] {
            assert!(text.contains(escaped), "{escaped}: {text}");
        }
        assert!(text.matches('L').count() >= 100_000);
    }
    // Each line says who printed it, and no guest is the program.
    for line in all.lines().filter(|line| line.contains("the guest powered off")) {
        assert_eq!(line.split(' ').nth(2).unwrap().split('[').next(), Some("microvm@appvm"), "{line}");
    }
    assert_eq!(log.matches("the guest powered off").count(), 2);
    assert_eq!(host.state("appvm"), "running");
    // Nothing of it is urgent, so that no terminal is written to; and nothing is a field.
    let entries = entries(&host, "appvm");
    assert!(entries.len() > 100);
    for entry in &entries {
        assert_eq!((&entry["PRIORITY"], &entry["_TRANSPORT"]), (&"7".into(), &"stdout".into()), "{entry}");
        assert!(entry["MESSAGE"].is_string(), "{entry}");
    }
}

#[test]
fn a_guest_that_floods_its_serial_console_harms_nobody_else() {
    needs!(is_possible());
    let host = Host::new();
    // A host whose journal takes what it gets: the unit itself has a limit.
    host.machine.write("/etc/systemd/journald.conf.d/all.conf", "[Journal]\nRateLimitBurst=0\n");
    host.ok(&["systemctl", "restart", "systemd-journald.service"]);
    host.vm("flood");
    host.vm("quiet");
    // More than a boot prints, and few enough for a guest on a machine that is busy.
    let (burst, interval) = (400, Duration::from_secs(30));
    let limit = format!("[Service]\nLogRateLimitBurst={burst}\n");
    host.machine.write("/run/systemd/system/microvm@flood.service.d/limit.conf", &limit);
    host.sync();
    host.start("quiet");
    host.start("flood");
    let flooding = Instant::now();
    host.in_guest("flood", "yes flood >/dev/console &");
    let printed = || -> usize {
        host.ok(&["journalctl", "--sync"]);
        let count = "journalctl --quiet --no-pager --output=cat --identifier=microvm@flood | wc -l";
        host.ok(&["sh", "-c", count]).parse().unwrap()
    };
    // The other goes on, and so does its supervisor.
    let mut number = 0;
    wait_for("the journal to say that it drops some", || {
        assert_eq!(host.state("flood"), "running");
        let command = format!("echo line {number} >/dev/console; echo I live");
        assert_eq!(host.in_guest("quiet", &command), "I live");
        number += 1;
        let journal = host.ok(&["journalctl", "--quiet", "--no-pager", "--identifier=systemd-journald"]);
        let dropped = |line: &str| line.contains("Suppressed") && line.contains("microvm@flood.service");
        journal.lines().any(dropped).then_some(())
    });
    // The journal takes up to six times the burst in each interval where its disk is large.
    let taken = printed();
    let intervals = flooding.elapsed().as_secs() / interval.as_secs() + 2;
    assert!(taken as u64 <= intervals * 6 * burst + 1_000, "{taken} in {:?}", flooding.elapsed());
    // Why it ended is not lost in the flood, whether that is an error or not.
    let says = |what: &str| {
        let said = format!("microvm-spectrum: flood: {what}");
        wait_for(what, || host.run(&["log", "--all", "flood"]).stdout.contains(&said).then_some(()));
    };
    host.last_words("flood", "poweroff -f");
    says("the guest powered off");
    // The journal may still drop what the guest prints.
    host.run(&["start", "flood"]).exits(0);
    host.in_guest("flood", "yes flood >/dev/console &");
    host.last_words("flood", "kill -USR1 1");
    says("the guest's kernel panicked");
    // It floods again, and can be stopped like any other.
    wait_for("its restart", || (host.state("flood") == "running").then_some(()));
    host.in_guest("flood", "yes flood >/dev/console &");
    let begun = Instant::now();
    host.run(&["stop", "flood"]).exits(0);
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(120), "{taken:?}");
    assert_eq!(host.state("flood"), "stopped");
    assert_eq!(host.processes("qemu-system").len(), 1);
    let log = host.log("quiet");
    for number in 0..number {
        assert!(log.contains(&format!("line {number}\n")), "{number}: {log}");
    }
}
