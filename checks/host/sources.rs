// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Many sources and one view: what shadows whom, what appears and goes, and what
//! runs with something else than it would be started with now.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::installed::{Host, INSTALLED, PARTITION};
use crate::support::links::{PROVIDER, RECORDS, client, link, wait_answers};
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// A second and a third source, after the one of [`Host::configure`].
const BUILTIN: &str =
    "[[source]]\nkind = 'builtin'\nname = 'own'\npath = '/srv/own'\nallow = ['/ext=/srv/P']\n";
const LATER: &str = "[[source]]\nkind = 'user-partition'\nname = 'later'\npath = '/media/later'\n\
                     allow = ['/srv/P']\n";

/// Makes a VM directory whose kernel and image are those of the partition `user`.
fn vm_in(host: &Host, directory: &str) {
    let path = host.machine.path(directory);
    fs::create_dir_all(path.join("blk")).unwrap();
    symlink("/srv/P/vmlinux", path.join("vmlinux")).unwrap();
    symlink("/srv/P/root.img", path.join("blk/root.img")).unwrap();
}

/// All rows of `list --all`, as `SOURCE/NAME STATE`.
fn all(host: &Host) -> Vec<String> {
    let list: Value = serde_json::from_str(&host.run(&["list", "--all", "--json"]).exits(0).stdout).unwrap();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
    let rows = list["vms"].as_array().unwrap().iter();
    rows.map(|row| format!("{}/{} {}", text(row, "source"), text(row, "name"), text(row, "state"))).collect()
}

#[test]
fn a_client_has_no_link_to_another_vm_that_still_runs_under_its_providers_name() {
    needs!(is_possible());
    let host = Host::new();
    host.configure(LATER);
    host.machine.mkdir("/media/later/svc/data");
    vm_in(&host, "/media/later/svc/data/netvm");
    host.sync();
    host.start("netvm");
    let others = host.row("netvm")["uid"].clone();
    host.vm("netvm");
    client(&host, "app", &["netvm"]);
    host.sync();
    host.start("app");
    let id = link(&host, "app", "netvm");
    let record: Value =
        serde_json::from_str(&host.machine.read(&format!("{RECORDS}/netvm/{id}.json"))).unwrap();
    assert_ne!(record["provider_user"], others);
    assert_eq!(record["provider_user"], host.row("netvm")["uid"]);
    assert_eq!(host.row("app")["stale"], json!([]));
    host.run(&["restart", "netvm"]).exits(0);
    wait_answers(&host, "app", PROVIDER);
}

#[test]
fn one_view_of_all_sources() {
    needs!(is_possible());
    let host = Host::new();
    host.machine.mkdir("/srv/own");
    vm_in(&host, "/srv/own/netvm");
    vm_in(&host, "/srv/own/both");
    for name in ["both", "app", "broken", "lost", "left", "right"] {
        host.vm(name);
    }
    let provider = |vm: &str, provider: &str| {
        host.machine.mkdir(&format!("{PARTITION}/svc/data/{vm}/providers/net"));
        host.machine.write(&format!("{PARTITION}/svc/data/{vm}/providers/net/{provider}"), "");
    };
    provider("app", "netvm");
    provider("lost", "nobody");
    provider("left", "right");
    provider("right", "left");
    host.machine.write(&format!("{PARTITION}/svc/data/broken/wayland"), "");
    host.configure(&BUILTIN.replace("/ext=/srv/P", "/srv/P"));
    // Written after the other, it comes first: it is built in.
    host.run(&["sync"]).exits(1);
    let expected = [
        "user/app stopped",
        "own/both stopped",
        "user/both shadowed",
        "user/broken broken",
        "user/left blocked",
        "user/lost blocked",
        "own/netvm stopped",
        "user/right blocked",
    ];
    assert_eq!(all(&host), expected);
    let checked = host.run(&["check"]).exits(1).stdout;
    for part in [
        "svc/data/broken/wayland: ",
        "svc/data/lost/providers/net: its network provider nobody does not exist",
        "in a circle: left -> right -> left",
        "in a circle: right -> left -> right",
        "svc/data/both: is shadowed by the VM of that name in own",
    ] {
        assert!(checked.contains(part), "{part}: {checked}");
    }
    let graph: Value = serde_json::from_str(&host.run(&["graph", "--json"]).exits(0).stdout).unwrap();
    let node = |name: &str| {
        let vms = graph["vms"].as_array().unwrap();
        vms.iter().find(|vm| vm["name"] == name).unwrap_or_else(|| panic!("no {name} in {graph}")).clone()
    };
    assert_eq!(node("app")["providers"][0]["name"], "netvm");
    assert!(node("app")["providers"][0]["ipv4"].as_str().unwrap().starts_with("100.64."));
    assert_eq!(
        (&node("left")["state"], &node("left")["providers"][0]["name"]),
        (&"blocked".into(), &"right".into())
    );
    // None of them looks at a source.
    fs::rename(host.machine.path(PARTITION), host.machine.path("/srv/away")).unwrap();
    assert_eq!(all(&host), expected);
    assert_eq!(host.run(&["check"]).exits(1).stdout, checked);
}

#[test]
fn a_source_that_appears_and_goes_by_itself() {
    needs!(is_possible());
    let host = Host::watching();
    host.vm("first");
    host.machine.mkdir("/media/later");
    host.configure(&format!("{LATER}autostart = true\n[vm.'later/auto']\nautostart = true\n"));
    host.run(&["sync"]).exits(0).complains(&["the source later cannot be read"]);
    assert_eq!(all(&host), ["user/first stopped"]);
    host.machine.wait_active("microvm-spectrum-source@later.path");
    // What is mounted has VMs; the test calls no sync.
    vm_in(&host, "/srv/stick/svc/data/auto");
    vm_in(&host, "/srv/stick/svc/data/other");
    vm_in(&host, "/srv/stick/svc/data/first");
    host.ok(&["mount", "--bind", "/srv/stick", "/media/later"]);
    wait_for("the VMs of the source later", || (all(&host).len() == 4).then_some(()));
    host.machine.wait_active("microvm@auto.service");
    host.wait_boots("auto", 1);
    assert_eq!(
        all(&host),
        ["later/auto running", "user/first stopped", "later/first shadowed", "later/other stopped"]
    );
    // It goes: what runs stays, and the rest is marked.
    host.ok(&["umount", "--lazy", "/media/later"]);
    wait_for("the absence of the source later", || {
        all(&host).contains(&"later/other unavailable".to_owned()).then_some(())
    });
    assert_eq!(
        all(&host),
        ["later/auto running", "user/first stopped", "later/first shadowed", "later/other unavailable"]
    );
    assert_eq!(host.in_guest("auto", "echo here"), "here");
    host.run(&["start", "other"])
        .exits(1)
        .complains(&["the source later cannot be read", "other cannot run"]);
    host.run(&["stop", "auto"]).exits(0);
    assert_eq!(host.row("auto")["state"], "unavailable");
    // And it comes back as it was, with the user that it had.
    let uid = host.row("auto")["uid"].clone();
    host.ok(&["mount", "--bind", "/srv/stick", "/media/later"]);
    host.wait_boots("auto", 2);
    assert_eq!(host.row("auto")["uid"], uid);
    // A source that is not configured any more is not watched.
    host.run(&["stop", "auto"]).exits(0);
    host.configure("");
    host.sync();
    host.machine.wait_state("microvm-spectrum-source@later.path", "inactive");
}

#[test]
fn what_is_put_into_a_source_is_seen() {
    needs!(is_possible());
    let host = Host::watching();
    host.vm("old");
    host.sync();
    let unit = "microvm-spectrum-source@user.path";
    host.machine.wait_active(unit);
    host.vm("new");
    wait_for("the VM new", || (all(&host) == ["user/new stopped", "user/old stopped"]).then_some(()));
    // One that is copied slowly is broken at first, and watched until it is not.
    let slow = host.machine.path(&format!("{PARTITION}/svc/data/slow"));
    fs::create_dir(&slow).unwrap();
    wait_for("the broken VM", || all(&host).contains(&"user/slow broken".to_owned()).then_some(()));
    fs::create_dir(slow.join("blk")).unwrap();
    symlink("/ext/root.img", slow.join("blk/root.img")).unwrap();
    symlink("/ext/vmlinux", slow.join("vmlinux")).unwrap();
    wait_for("the VM slow", || all(&host).contains(&"user/slow stopped".to_owned()).then_some(()));
    fs::remove_dir_all(slow).unwrap();
    wait_for("its removal", || all(&host).contains(&"user/slow removed".to_owned()).then_some(()));
    // Its user and addresses are its own until it is forgotten.
    host.run(&["forget", "old"]).exits(1).complains(&["user/old still exists"]);
    host.run(&["forget", "slow"]).exits(0).complains(&["user/slow is forgotten"]);
    host.run(&["forget", "slow"]).exits(1).complains(&["no VM 'slow' has leases"]);
    host.sync();
    assert_eq!(all(&host), ["user/new stopped", "user/old stopped"]);
    // A hundred changes in a row are no reason to give up.
    for _ in 0..100 {
        host.machine.mkdir(&format!("{PARTITION}/svc/data/x"));
        fs::remove_dir(host.machine.path(&format!("{PARTITION}/svc/data/x"))).unwrap();
    }
    host.vm("last");
    wait_for("the VM last", || all(&host).contains(&"user/last stopped".to_owned()).then_some(()));
}

#[test]
fn a_source_that_changes_all_the_time_delays_no_other() {
    needs!(is_possible());
    let host = Host::watching();
    host.vm("calm");
    host.machine.mkdir("/media/later/svc/data");
    host.configure(LATER);
    host.sync();
    host.machine.wait_active("microvm-spectrum-source@later.path");
    let directory = host.machine.path("/media/later/svc/data/x");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = ends_with_the_test(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                fs::create_dir(&directory).unwrap();
                std::thread::sleep(Duration::from_millis(10));
                fs::remove_dir(&directory).unwrap();
            }
        });
        let begun = Instant::now();
        for boot in [2, 4, 6] {
            host.start("calm");
            // Its supervisor is killed, and systemd starts it again.
            host.ok(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "microvm@calm.service"]);
            host.wait_boots("calm", boot);
            wait_for("its start", || (host.state("calm") == "running").then_some(()));
            host.run(&["stop", "calm"]).exits(0);
        }
        // Another source is scanned immediately.
        let changed = Instant::now();
        host.vm("new");
        wait_for("the VM new", || all(&host).contains(&"user/new stopped".to_owned()).then_some(()));
        assert!(changed.elapsed() < Duration::from_secs(60), "{:?}", changed.elapsed());
        // The one that changes has its own scans, and ever fewer of them.
        let count = "journalctl --quiet --no-pager --unit=microvm-spectrum-resync@later.service \
                     --grep=Starting | wc -l";
        let scans: u64 = host.ok(&["sh", "-c", count]).parse().unwrap();
        let most = 17 + begun.elapsed().as_secs() / 30;
        assert!((5..=most).contains(&scans), "{scans} in {:?}", begun.elapsed());
    });
}

/// Sets it when the test ends, also when it fails.
fn ends_with_the_test(ended: &AtomicBool) -> impl Drop {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    Ends(ended)
}

#[test]
fn a_vm_that_runs_with_something_else_is_stale() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("appvm");
    host.vm("other");
    host.vm("eager");
    host.configure("[vm.eager]\nrestart-if-changed = true\n");
    let image = host.machine.path(&format!("{PARTITION}/svc/data/appvm/blk/root.img"));
    let replace_image = || {
        fs::copy(host.machine.path(&format!("{PARTITION}/root.img")), image.with_extension("new")).unwrap();
        fs::rename(image.with_extension("new"), &image).unwrap();
    };
    // No link any more, but a file.
    replace_image();
    host.sync();
    for name in ["appvm", "other", "eager"] {
        host.start(name);
    }
    let stale = |name: &str| host.row(name)["stale"].clone();
    let none = serde_json::json!([]);
    assert_eq!(stale("appvm"), none);
    host.sync();
    assert_eq!(stale("appvm"), none);
    // Its image, by another file of that name.
    replace_image();
    host.sync();
    assert_eq!(stale("appvm"), serde_json::json!(["blk/root.img has changed"]));
    assert_eq!(host.row("appvm")["detail"], "stale: blk/root.img has changed");
    assert_eq!(stale("other"), none);
    assert_eq!(host.in_guest("appvm", "echo here"), "here", "it is left alone");
    host.run(&["restart", "appvm"]).exits(0);
    assert_eq!(stale("appvm"), none);
    // One that is replaced and started before anybody syncs is what it is.
    host.run(&["stop", "appvm"]).exits(0);
    replace_image();
    host.run(&["start", "appvm"]).exits(0);
    assert_eq!(stale("appvm"), none);
    host.sync();
    assert_eq!(stale("appvm"), none);
    // Its settings; one of them wants to be restarted.
    let boots = host.boots("eager");
    host.configure(
        "[vm.eager]\nrestart-if-changed = true\nmemory = 160\n[vm.other]\nmemory = 160\nuid = 71000\n",
    );
    host.sync();
    let why = ["its definition or its settings have changed", "its user id is 71000 now"];
    assert_eq!(stale("other"), serde_json::json!(why));
    host.wait_boots("eager", boots + 1);
    assert_eq!(stale("eager"), none);
    assert_eq!(host.boots("appvm"), 3, "no restart was asked for");
    // What it would be is shown, and nothing is done.
    host.configure("[vm.eager]\nrestart-if-changed = true\n");
    let plan = host.run(&["sync", "--dry-run"]).exits(0).stdout;
    let lines: Vec<_> = plan.lines().collect();
    assert!(lines.contains(&"changed user/eager: its definition or its settings"), "{plan}");
    assert!(lines.contains(&"restart user/eager") && plan.contains("changed user/other: its "), "{plan}");
    assert_eq!(stale("eager"), none);
}

#[test]
fn a_partition_is_to_be_mounted_when_it_appears() {
    needs!(is_possible());
    let host = Host::watching();
    let uuid = "6a5b0b3c-1234-4abc-9def-0123456789ab";
    host.configure(&format!(
        "[[source]]\nkind = 'user-partition'\nname = 'the-stick'\npartuuid = '{uuid}'\nallow = ['/srv/P']\n"
    ));
    host.run(&["sync"]).exits(0).complains(&["the source the-stick cannot be read"]);
    let place = "/run/microvm-spectrum/partitions/the-stick";
    let unit = host.ok(&["systemd-escape", "--path", "--suffix=mount", place]);
    let device =
        host.ok(&["systemd-escape", "--path", "--suffix=device", &format!("/dev/disk/by-partuuid/{uuid}")]);
    let property = |name: &str| host.machine.property(&unit, name);
    assert_eq!(property("What"), format!("/dev/disk/by-partuuid/{uuid}"));
    assert_eq!(property("Where"), place);
    // systemd quotes what has a backslash.
    assert_eq!(property("BindsTo").trim_matches('"').replace("\\\\", "\\"), device);
    assert!(
        host.ok(&["systemctl", "show", "--property=Wants", &device]).replace("\\\\", "\\").contains(&unit)
    );
    host.ok(&["systemd-analyze", "verify", &format!("/run/systemd/generator/{unit}")]);
    // Nothing waits for it, and nothing fails because it is not there.
    assert_eq!(host.machine.property("microvm-spectrum-source@the-stick.path", "ActiveState"), "inactive");
    assert!(host.ok(&["systemctl", "show", "--property=Wants", &unit]).contains("source@the-stick.path"));
    host.machine.wait_active("microvm-spectrum-mounts.service");
    assert_eq!(host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend", "*spectrum*"]), "");
}

#[test]
fn a_package_that_was_built_elsewhere() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("elsewhere");
    host.vm("netvm");
    host.sync();
    let built = host.ok(&["readlink", "-f", "/var/lib/microvms/elsewhere/current"]);
    host.ok(&["cp", "-a", &built, "/srv/runner"]);
    host.configure("[vm.elsewhere]\nrunner = '/srv/runner'\nautostart = true\n");
    host.sync();
    host.machine.wait_active("microvm@elsewhere.service");
    assert_eq!(
        all(&host),
        ["configuration/elsewhere running", "user/elsewhere shadowed", "user/netvm stopped"]
    );
    assert_eq!(host.ok(&["readlink", "/var/lib/microvms/elsewhere/booted"]), "/srv/runner");
    host.wait_boots("elsewhere", 1);
    // Another in its place is another, and so is one of the same name elsewhere.
    let stale = || host.row("elsewhere")["stale"].clone();
    assert_eq!(stale(), serde_json::json!([]));
    host.ok(&[
        "sh",
        "-ec",
        "cp -a /srv/runner /srv/new; mkdir /srv/old; mv /srv/runner /srv/old; mv /srv/new /srv/runner",
    ]);
    host.sync();
    let manifest = "share/microvm-spectrum/manifest.json has changed";
    assert_eq!(stale(), serde_json::json!([manifest]));
    host.configure("[vm.elsewhere]\nrunner = '/srv/old/runner'\nautostart = true\n");
    host.sync();
    assert_eq!(stale()[0], "its definition or its settings have changed");
    // A device that is in it is no other VM's.
    host.ok(&["cp", "-a", "/srv/runner", "/srv/with-device"]);
    let with_device = "s/\"link_ports\": 8,/&\\n  \"pci_devices\": [\"0000:01:00.0\"],/";
    let manifest = "/srv/with-device/share/microvm-spectrum/manifest.json";
    host.ok(&["sed", "-i", with_device, manifest]);
    host.configure(
        "[vm.elsewhere]\nrunner = '/srv/with-device'\n[vm.'user/netvm']\ndevices = ['0000:01:00.0']\n",
    );
    host.run(&["sync", "--no-systemd"]).exits(1).complains(&[
        "/sys/bus/pci/devices/0000:01:00.0: is both for configuration/elsewhere and for user/netvm",
    ]);
    host.configure("[vm.elsewhere]\nrunner = '/srv/runner'\nautostart = true\n");
    host.sync();
    // What root executes, only root can replace.
    host.ok(&["chmod", "o+w", "/srv/runner/bin"]);
    host.run(&["sync"]).exits(1).complains(&["/srv/runner", "chmod"]);
    host.ok(&["chmod", "o-w", "/srv/runner/bin"]);
    host.configure("[vm.wrong]\nrunner = '/srv/runner'\n[vm.none]\nrunner = '/srv/none'\n");
    host.run(&["sync"])
        .exits(1)
        .complains(&["is the package of the VM elsewhere, not of wrong", "/srv/none"]);
    host.machine.wait_state("microvm@elsewhere.service", "inactive");
    wait_for("the end of its helpers", || {
        (!host.machine.path("/var/lib/microvms/elsewhere/booted").is_symlink()).then_some(())
    });
    assert_eq!(host.machine.run(&[INSTALLED, "sync", "--dry-run"]).exits(1).stdout, "nothing to do\n");
}

/// Who may write to a partition can keep systemd from watching it for no longer than it
/// takes to put something right there.
#[test]
fn what_cannot_be_watched_for_a_while_is_watched_again() {
    needs!(is_possible());
    let host = Host::watching();
    host.vm("first");
    let half = host.machine.path(&format!("{PARTITION}/svc/data/half"));
    fs::create_dir(&half).unwrap();
    host.run(&["sync"]).exits(1);
    let unit = "microvm-spectrum-source@user.path";
    host.machine.wait_active(unit);
    let scans = || host.machine.journal("microvm-spectrum-resync@user").matches("Finished").count();
    let (svc, data) = (host.machine.path(&format!("{PARTITION}/svc")), "svc/data");
    let away = host.machine.path(&format!("{PARTITION}/away"));
    let kinds = ["a file", "a link to itself", "a link out", "a directory"];
    let put = |kind: &str, path: &Path| match kind {
        "a file" => fs::write(path, "").unwrap(),
        "a link to itself" => symlink(path.file_name().unwrap(), path).unwrap(),
        "a link out" => symlink("/etc", path).unwrap(),
        _ => fs::create_dir(path).unwrap(),
    };
    let places = [svc.clone(), host.machine.path(&format!("{PARTITION}/{data}")), half.clone()];
    let cases = places.iter().flat_map(|path| kinds.map(|kind| (path, kind)));
    for (number, (path, kind)) in cases.enumerate() {
        let what = format!("{kind} in the place of {}", path.display());
        // However often it has changed before. What has just been scanned may be recorded meanwhile.
        wait_for("no records of scans", || {
            (host.machine.run(&["rm", "-rf", "/run/microvm-spectrum/scans"]).status == 0).then_some(())
        });
        let before = scans();
        fs::rename(path, &away).unwrap();
        put(kind, path);
        host.machine.run(&["touch", &format!("{PARTITION}/svc/data/changed")]);
        wait_for(&format!("a scan after {what}"), || (scans() > before).then_some(()));
        wait_for(&format!("an end of scans after {what}"), || settled(&host, unit).then_some(()));
        match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        fs::rename(&away, path).unwrap();
        let name = format!("vm-{number}");
        host.vm(&name);
        wait_for(&format!("what is new after {what}"), || {
            all(&host).contains(&format!("user/{name} stopped")).then_some(())
        });
    }
    wait_for("an end of scans", || settled(&host, unit).then_some(()));
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"]);
    assert!(!failed.contains("microvm"), "{failed}");
}

#[test]
fn a_sync_that_only_looks_starts_what_starts_with_the_host() {
    needs!(is_possible());
    let host = Host::new();
    // File systems whose times tell every change, as a real host's do and the machine's own does not.
    for directory in [PARTITION, "/var/lib/microvms"] {
        host.ok(&["mkdir", "-p", directory, "/srv/new"]);
        host.ok(&["mount", "-t", "tmpfs", "tmpfs", "/srv/new"]);
        host.ok(&["cp", "-a", &format!("{directory}/."), "/srv/new"]);
        host.ok(&["mount", "--bind", "/srv/new", directory]);
        host.ok(&["umount", "/srv/new"]);
    }
    host.vm("appvm");
    host.configure("[vm.appvm]\nautostart = true\n[vm.nowhere]\nmemory = 64\n");
    host.run(&["sync", "--start"]).exits(0);
    host.wait_boots("appvm", 1);
    host.run(&["stop", "appvm"]).exits(0);
    // A sync remembers what it has found when that is old enough to tell a change after it.
    let known = "/var/lib/microvms/.microvm-spectrum/known.json";
    let remembered = wait_for("a round that is remembered", || {
        host.run(&["sync"]).exits(0);
        Some(host.machine.read(known)).filter(|known| known.contains("nowhere"))
    });
    assert_eq!(host.state("appvm"), "stopped");
    // Only a sync that repeats what was remembered says this.
    host.machine.write(known, &remembered.replace("nowhere", "planted"));
    assert!(host.run(&["sync", "--start"]).exits(0).stderr.contains("planted"));
    host.wait_boots("appvm", 2);
}

/// Whether systemd watches a source, and does not scan it now.
fn settled(host: &Host, unit: &str) -> bool {
    host.machine.property(unit, "SubState") == "waiting"
}
