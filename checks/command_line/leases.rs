// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! User ids: every VM has one of its own, keeps it, and no other VM gets it later.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;

use crate::namespace::{mounts, shell, words};
use crate::support::program::{parse, run};
use crate::support::skip::needs;
use crate::support::tree;
use crate::support::vm_directory::Partition;
use crate::sync_host::{Host, host, touched};

const RANGE: &str = "[uids]\nfirst = 80000\nlast = 80003\n";

impl Host {
    fn remove(&self, name: &str) {
        fs::remove_dir_all(self.partition.root.join("svc/data").join(name)).unwrap();
    }
}

#[test]
fn every_vm_has_one_of_its_own_from_the_range_and_keeps_it() {
    let host = host();
    let mut before = std::collections::BTreeMap::new();
    for (count, name) in ["m", "z", "a", "k", "b"].into_iter().enumerate() {
        host.vm(name);
        host.synced();
        let leases = host.leases();
        assert_eq!(leases.len(), count + 1);
        assert_eq!(leases.values().collect::<BTreeSet<_>>().len(), leases.len(), "{leases:?}");
        assert!(leases.values().all(|uid| (70_000..=89_999).contains(uid)), "{leases:?}");
        assert!(before.iter().all(|(id, uid)| leases[id] == *uid), "{before:?} {leases:?}");
        for (id, uid) in &leases {
            assert_eq!(host.uid(id), *uid);
        }
        before = leases;
    }
}

#[test]
fn one_that_was_given_is_not_given_to_another() {
    let host = host();
    host.configure(RANGE);
    let mut seen = BTreeSet::new();
    for name in ["a", "b", "c", "d"] {
        host.vm(name);
        host.synced();
        assert!(seen.insert(host.uid(&format!("user/{name}"))), "{name}");
        host.remove(name);
    }
    host.synced();
    assert_eq!((host.leases().len(), seen.len()), (4, 4));
}

#[test]
fn the_last_one_is_given() {
    let host = host();
    host.configure(RANGE);
    for name in ["a", "b", "c", "d", "e", "f"] {
        host.vm(name);
    }
    let ran = run(&mut host.sync()).exits(1);
    let (problems, _) = parse(&ran.stderr);
    let data = host.partition.root.join("svc/data");
    for (problem, name) in problems.iter().zip(["e", "f"]) {
        let expected = format!("{}: all user ids of the range are leased", data.join(name).display());
        assert!(problem.text.starts_with(&expected), "{problem:?}");
        assert!(problem.help.contains("widen [uids] in the configuration"), "{problem:?}");
    }
    assert_eq!(problems.len(), 2, "{}", ran.stderr);
    host.is_whole();
    let states = host.states();
    assert_eq!(states.iter().filter(|(_, state)| state == "runnable").count(), 4);
    assert_eq!(host.uid("user/d"), 80_003);
    // A VM that goes makes no place; another range does, and those who have one keep it.
    host.remove("a");
    run(&mut host.sync()).exits(1);
    assert_eq!(host.in_catalog("user/e")["state"], "broken");
    let before = host.leases();
    host.configure("[uids]\nfirst = 66000\nlast = 66001\n");
    host.synced();
    assert_eq!([host.uid("user/e"), host.uid("user/f")], [66_000, 66_001]);
    assert!(before.iter().all(|(id, uid)| host.leases()[id] == *uid));
}

#[test]
fn one_belongs_to_a_vm_of_a_source_and_not_to_a_name() {
    let host = host();
    let second = Partition::at(&host.root.join("second"));
    host.vm("a");
    host.synced();
    let first = host.uid("user/a");
    // The same name on another partition, and the same partition by another name.
    host.remove("a");
    second.vm("a").image("root.img", b"");
    host.configure_sources(&[("user", &host.partition.root), ("second", &second.root)], "");
    host.synced();
    let other = host.uid("second/a");
    host.configure_sources(&[("third", &second.root)], "");
    host.synced();
    let third = host.uid("third/a");
    assert_eq!(BTreeSet::from([first, other, third]).len(), 3);
    assert_eq!(host.leases().len(), 3);
}

#[test]
fn one_of_a_source_that_is_away_can_be_moved_to_another_vm() {
    let host = host();
    let second = Partition::at(&host.root.join("second"));
    host.vm("a");
    second.vm("b").image("root.img", b"");
    let sources = [("user", host.partition.root.as_path()), ("zz", second.root.as_path())];
    host.configure_sources(&sources, "[vm.'user/a']\nuid = 80001\n");
    host.synced();
    fs::rename(&host.partition.root, host.root.join("away")).unwrap();
    run(&mut host.sync()).exits(0);
    host.configure_sources(&sources, "[vm.'user/a']\nuid = 85000\n[vm.'zz/b']\nuid = 80001\n");
    run(&mut host.sync()).exits(0);
    // The catalog says so of both, and can be read.
    run(&mut host.call(&["list"])).exits(0);
    host.has(&[("user/a", "unavailable"), ("zz/b", "runnable")]);
    fs::rename(host.root.join("away"), &host.partition.root).unwrap();
    run(&mut host.sync()).exits(0);
    assert_eq!([host.uid("user/a"), host.uid("zz/b")], [85_000, 80_001]);
    host.has(&[("user/a", "runnable"), ("zz/b", "runnable")]);
}

#[test]
fn a_file_of_leases_that_cannot_be_used_stops_everything() {
    let host = host();
    host.vm("a");
    host.synced();
    let leases = host.own("leases.json");
    let good = fs::read_to_string(&leases).unwrap();
    let links = |links: &str| format!("{{\"version\": 1, \"uids\": {{}}, \"links\": {{{links}}}}}");
    // There would be enough to do.
    host.vm("b");
    for (bad, why) in [
        (&b""[..], "is not a file of leases"),
        (b"{", "is not a file of leases"),
        (b"[]", "is not a file of leases"),
        (b"\xff", "is not a file of leases"),
        (good.replace("70000", "-1").as_bytes(), "is not a file of leases"),
        (good.replace("70000", "4294967296").as_bytes(), "is not a file of leases"),
        (good.replace("70000", "\"70000\"").as_bytes(), "is not a file of leases"),
        (good.replace("user/a", "a").as_bytes(), "is not a file of leases"),
        (good.replace("user/a", "user/../a").as_bytes(), "is not a file of leases"),
        (good.replace("uids", "gids").as_bytes(), "is not a file of leases"),
        (good.replace("\"version\": 1", "\"version\": 2").as_bytes(), "has version 2"),
        (good.replace("70000", "0").as_bytes(), "gives user/a the user id 0, which no VM may have"),
        (good.replace("70000", "1000").as_bytes(), "gives user/a the user id 1000"),
        (good.replace("70000", "65535").as_bytes(), "gives user/a the user id 65535"),
        (good.replace("70000", "4294967295").as_bytes(), "gives user/a the user id 4294967295"),
        (br#"{"version": 1, "uids": {"user/a": 70000, "user/b": 70000}}"#, "gives two VMs the same user id"),
        (links(r#""user/a": {"n": "a546", "m": "a546"}"#).as_bytes(), "gives two links the same id"),
        (
            links(r#""user/a": {"n": "a546"}, "user/b": {"n": "A546"}"#).as_bytes(),
            "gives two links the same id",
        ),
        (links(r#""user/a": {"n": "0000"}"#).as_bytes(), "is not a file of leases"),
        (links(r#""user/a": {"n": "a546/../x"}"#).as_bytes(), "is not a file of leases"),
        (links(r#""user/a": {"n\n": "a546"}"#).as_bytes(), "is not a file of leases"),
    ] {
        assert_ne!(bad, good.as_bytes());
        fs::write(&leases, bad).unwrap();
        let before = touched(&host.state);
        let ran = run(&mut host.sync()).exits(1);
        let (problems, rest) = parse(&ran.stderr);
        let ([only], []) = (problems.as_slice(), rest.as_slice()) else { panic!("{}", ran.stderr) };
        assert!(only.text.starts_with(&format!("{}: {why}", leases.display())), "{bad:?}: {only:?}");
        assert!(only.help.contains("restore it from a backup"), "{only:?}");
        assert_eq!(before, touched(&host.state), "{bad:?}");
    }
    // The file may be fine where the host cannot read it.
    fs::remove_file(&leases).unwrap();
    fs::create_dir(&leases).unwrap();
    let ran = run(&mut host.sync()).exits(3);
    ran.complains(&[&format!("error: {}: cannot be read: Is a directory", leases.display())]);
    fs::remove_dir(&leases).unwrap();
    fs::write(&leases, good).unwrap();
    host.synced();
    host.has(&[("user/a", "runnable"), ("user/b", "runnable")]);
}

#[test]
fn an_id_of_an_account_of_this_host_is_not_given() {
    let host = host();
    needs!(mounts());
    host.configure(RANGE);
    for name in ["a", "b"] {
        host.vm(name);
    }
    let passwd = host.root.join("passwd");
    fs::write(
        &passwd,
        b"root:x:0:0::/:/bin/sh\nfirst:x:80000:1:\xff:/:/bin/sh\nbad line\nnext:x:80002:1::/:/x\n",
    )
    .unwrap();
    let sync = host.sync();
    let script = "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"";
    run(&mut shell(script, [passwd.as_os_str()].into_iter().chain(words(&sync)))).exits(0).warns_of_nothing();
    assert_eq!([host.uid("user/a"), host.uid("user/b")], [80_001, 80_003]);
    host.is_whole();
    // Who comes later is not a reason to take one away.
    let before = host.leases();
    fs::write(&passwd, "late:x:80001:1::/:/bin/sh\n").unwrap();
    run(&mut shell(script, [passwd.as_os_str()].into_iter().chain(words(&sync)))).exits(0);
    assert_eq!(before, host.leases());
    // And no VM becomes a user of this host because of a typing mistake.
    host.configure(&format!("{RANGE}[vm.a]\nuid = 80000\n"));
    fs::write(&passwd, "first:x:80000:1::/:/bin/sh\n").unwrap();
    run(&mut shell(script, [passwd.as_os_str()].into_iter().chain(words(&sync))))
        .exits(1)
        .complains(&["cannot have the user id 80000, which a user or a group of this host has"]);
    host.has(&[("user/a", "broken"), ("user/b", "runnable")]);
}

#[test]
fn they_can_be_read_by_a_person() {
    let host = host();
    host.vm("b");
    host.vm("a").provider("b");
    host.synced();
    let text = fs::read_to_string(host.own("leases.json")).unwrap();
    let expected = "{\n  \"version\": 1,\n  \"uids\": {\n    \"user/a\": 70000,\n    \"user/b\": 70001\n  },\n  \"links\": {\n    \"user/a\": {\n      \"b\": \"7e18\"\n    }\n  }\n}\n";
    assert_eq!(text, expected);
    assert!(tree::names(&host.own("")).iter().all(|name| !OsStr::new(name).is_empty()));
}

/// A VM whose link to `netvm` would have the id of `victim`'s, were it not taken.
fn look_alike(victim: &str) -> String {
    use sha2::{Digest as _, Sha256};
    let id = |client: &str| Sha256::digest(format!("{client}\nnetvm"))[..2].to_vec();
    let wanted = id(victim);
    (0..).map(|number| format!("a{number}")).find(|name| id(name) == wanted).unwrap()
}

#[test]
fn no_two_links_have_the_same_id_and_none_changes() {
    let host = host();
    let link = |id: &str| host.in_catalog(id)["links"][0]["id"].as_str().unwrap().to_owned();
    host.vm("netvm");
    host.vm("victim").provider("netvm");
    host.synced();
    let victim = link("user/victim");
    // Its name is chosen so that it collides, and it comes first in every order.
    let hostile = look_alike("victim");
    host.vm(&hostile).provider("netvm");
    host.synced();
    let other = link(&format!("user/{hostile}"));
    assert_ne!(other, victim);
    assert_eq!(link("user/victim"), victim);
    // Also when its owner goes for a while.
    let (data, away) = (host.partition.root.join("svc/data/victim"), host.root.join("away"));
    fs::rename(&data, &away).unwrap();
    host.synced();
    assert_eq!(link(&format!("user/{hostile}")), other);
    fs::rename(&away, &data).unwrap();
    host.synced();
    assert_eq!((link("user/victim"), link(&format!("user/{hostile}"))), (victim.clone(), other));
    // One that is declared goes to no other VM.
    host.configure(&format!("[vm.victim.links]\nnetvm = '{victim}'\n[vm.third.links]\nnetvm = '{victim}'\n"));
    run(&mut host.sync()).exits(2).complains(&["both declare the link id"]);
    host.vm("third").provider("netvm");
    host.configure(&format!("[vm.third.links]\nnetvm = '{victim}'\n"));
    run(&mut host.sync()).exits(1).complains(&["cannot have the link id", "user/victim to netvm has"]);
    assert_eq!(host.in_catalog("user/third")["state"], "broken");
    assert_eq!(link("user/victim"), victim);
}

#[test]
fn one_that_a_group_has_on_this_host_is_not_given() {
    let host = host();
    needs!(mounts());
    host.configure(RANGE);
    host.vm("a");
    let group = host.root.join("group");
    fs::write(&group, "root:x:0:\nfirst:x:80000:\nsecond:x:80001:somebody\n").unwrap();
    let script = "mount --bind \"$1\" /etc/group && shift && exec \"$@\"";
    let sync = host.sync();
    run(&mut shell(script, [group.as_os_str()].into_iter().chain(words(&sync)))).exits(0).warns_of_nothing();
    assert_eq!(host.uid("user/a"), 80_002);
}

#[test]
fn a_file_of_leases_that_is_lost_is_made_anew_from_the_catalog() {
    let host = host();
    for name in ["a", "b", "c"] {
        host.vm(name);
    }
    host.synced();
    let before = host.leases();
    // Of what is left, everything keeps what it has; the first in order goes.
    fs::remove_file(host.own("leases.json")).unwrap();
    host.remove("a");
    host.synced();
    assert_eq!([host.uid("user/b"), host.uid("user/c")], [before["user/b"], before["user/c"]]);
    host.vm("d");
    host.synced();
    assert!(!before.values().any(|uid| *uid == host.uid("user/d")));
    host.vm("netvm");
    // The same of links: the one that came later does not get the other's id now.
    host.vm("victim").provider("netvm");
    host.synced();
    host.vm(&look_alike("victim")).provider("netvm");
    host.synced();
    let links = |host: &Host| {
        host.catalog()["vms"].as_array().unwrap().iter().map(|vm| vm["links"].clone()).collect::<Vec<_>>()
    };
    let before = links(&host);
    fs::remove_file(host.own("leases.json")).unwrap();
    host.synced();
    assert_eq!(links(&host), before);
}

#[test]
fn a_source_has_no_more_than_its_configuration_says() {
    let host = host();
    let table = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, table.replacen("name = 'user'", "name = 'user'\nmax-vms = 2", 1)).unwrap();
    for name in ["b", "c"] {
        host.vm(name);
    }
    host.synced();
    // The one that comes later does not take the place of another, whatever its name.
    host.vm("a");
    let ran = run(&mut host.sync()).exits(1);
    ran.complains(&["svc/data: the source user has no lease left for this VM: 2 of its VMs can run"]);
    host.has(&[("user/a", "broken"), ("user/b", "runnable"), ("user/c", "runnable")]);
    assert_eq!(host.leases().len(), 2);
    host.remove("b");
    run(&mut host.sync()).exits(1);
    run(&mut host.call(&["forget", "b"])).exits(0);
    host.synced();
    host.has(&[("user/a", "runnable"), ("user/c", "runnable")]);
}

#[test]
fn what_cannot_run_in_any_case_keeps_no_other_from_running() {
    let host = host();
    let table = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, table.replacen("name = 'user'", "name = 'user'\nmax-vms = 2", 1)).unwrap();
    host.vm("a").provider("nobody");
    host.vm("b").provider("a");
    host.vm("c").provider("d");
    host.vm("d").provider("c");
    host.vm("e").without("vmlinux");
    host.vm("f").provider("e");
    for name in ["y", "z"] {
        host.vm(name);
    }
    run(&mut host.sync()).exits(1);
    let states = host.states();
    let runnable: Vec<_> =
        states.iter().filter(|(_, state)| *state == "runnable").map(|(id, _)| id).collect();
    assert_eq!(runnable, ["user/y", "user/z"], "{states:?}");
    assert_eq!(host.leases().into_keys().collect::<Vec<_>>(), ["user/y", "user/z"]);
}

#[test]
fn only_what_can_run_has_one() {
    let host = host();
    host.vm("good");
    host.vm("blocked").provider("nobody");
    host.vm("broken").provider("good").without("vmlinux");
    run(&mut host.sync()).exits(1);
    assert_eq!(host.leases().into_keys().collect::<Vec<_>>(), ["user/good"]);
    assert!(!fs::read_to_string(host.own("leases.json")).unwrap().contains("blocked"));
    // Who had one keeps it.
    let uid = host.uid("user/good");
    fs::remove_file(host.partition.root.join("svc/data/good/vmlinux")).unwrap();
    run(&mut host.sync()).exits(1);
    assert_eq!(host.leases(), [("user/good".to_owned(), uid)].into());
}
