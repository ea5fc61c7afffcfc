// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Three hosts under Corosync and Pacemaker that run a provider and its two clients, and what
//! becomes of these when hosts and programs fail. `make check-cluster` runs it; it is no part
//! of `make check`.
//!
//! Each host is a machine with a systemd and a network of its own. All the time, every VM is
//! looked for on all of them: it must never run twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout
)]

#[path = "../support/mod.rs"]
mod support;

mod fencing;
mod nodes;
mod sampling;

use std::fs;
use std::io::Read as _;
use std::time::Instant;

use nodes::{Boots, Cluster, NODES, Node, VMS};
use support::links::{PROVIDER, address, link, mac};
use support::skip::needs;
use support::systemd_machine::is_possible;
use support::waiting::{wait_for, wait_or_explain};

/// A port of the host that leads to the provider.
const PORT: &str = "8080";

/// Runs a case, and prints how long it took until all VMs were ready.
fn case(cluster: &mut Cluster, what: &str, event: impl FnOnce(&mut Cluster)) {
    let start = Instant::now();
    event(cluster);
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
fn vms_go_on_whatever_becomes_of_a_host() {
    needs!(is_possible());
    let mut cluster = Cluster::start();
    let config = |cluster: &Cluster, more: &str| {
        let tables: String = VMS.iter().map(|vm| format!("[vm.{vm}]\ncluster = true\n{more}")).collect();
        let tables = tables
            .replace("[vm.net]\n", &format!("[vm.net]\nuplink = true\nports = ['0.0.0.0:{PORT}:80']\n"));
        for node in cluster.running() {
            node.host.configure(&tables);
            node.host.sync();
        }
    };
    config(&cluster, "");
    case(&mut cluster, "three VMs given to the cluster, until all are ready", |cluster| {
        cluster.give_vms();
        cluster.wait_ready(&Boots::new(), None);
    });
    let id = link(&cluster.home().host, "app-a", "net");
    let addresses = |cluster: &Cluster| {
        let seen = cluster.home().host.in_guest(
            "app-a",
            &format!("ip -o addr show; ip link show; ping -c 3 -w 60 {PROVIDER} >/dev/null && echo carries"),
        );
        for part in [address(&id), mac(&id, false), "carries".to_owned()] {
            assert!(seen.contains(&part), "{part}: {seen}");
        }
        // The provider's port is where the provider is.
        let home = cluster.home().index;
        for node in cluster.running() {
            let listens = node.host.ok(&["ss", "-Hltn", "sport", "=", PORT]);
            assert_eq!(!listens.is_empty(), node.index == home, "{listens}");
        }
    };
    addresses(&cluster);

    case(&mut cluster, "a host killed", |cluster| {
        let (home, boots) = (cluster.home().index, cluster.boots());
        cluster.kill(home);
        cluster.wait_ready(&boots, Some(home));
        assert_eq!(cluster.fenced(), [NODES[home]]);
    });
    addresses(&cluster);
    case(&mut cluster, "that host back in the cluster", |cluster| {
        let before = cluster.home().index;
        cluster.boot_missing();
        config(cluster, "");
        cluster.wait_online(3);
        assert_eq!(cluster.home().index, before);
    });

    case(&mut cluster, "a host put into standby", |cluster| {
        let (home, boots) = (cluster.home().index, cluster.boots());
        cluster.home().host.ok(&["crm_standby", "--node", NODES[home], "--update", "on"]);
        cluster.wait_ready(&boots, Some(home));
        cluster.home().host.ok(&["crm_standby", "--node", NODES[home], "--delete"]);
    });
    addresses(&cluster);

    case(&mut cluster, "a supervisor killed", |cluster| {
        let home = cluster.home().index;
        let boots = cluster.boots()[&home];
        let host = &cluster.home().host;
        host.ok(&["kill", "-KILL", &host.machine.property("microvm@app-a.service", "MainPID")]);
        wait_for("app-a to be ready again", || (host.boots("app-a") > boots[1]).then_some(()));
        // systemd did that, and Pacemaker need not know.
        assert_eq!((cluster.home().index, host.boots("net")), (home, boots[0]));
        let count = host.ok(&["crm_failcount", "--query", "--resource", "vm-app-a", "--node", NODES[home]]);
        assert!(count.contains("value=0"), "{count}");
    });

    case(&mut cluster, "a VM changed and synced on all hosts, and restarted by the cluster", |cluster| {
        let home = cluster.home().index;
        let boots = cluster.boots()[&home];
        config(cluster, "memory = 144\n");
        let host = &cluster.home().host;
        assert_eq!(cluster.boots()[&home], boots);
        assert_ne!(host.row("app-b")["stale"], serde_json::json!([]));
        host.ok(&["crm_resource", "--restart", "--resource", "vm-app-b"]);
        wait_for("app-b to be ready again", || (host.boots("app-b") > boots[2]).then_some(()));
        assert_eq!((cluster.home().index, &host.row("app-b")["stale"]), (home, &serde_json::json!([])));
        assert_eq!(host.boots("app-a"), boots[1]);
    });

    case(&mut cluster, "a client that cannot start anywhere, until crm_mon says why", |cluster| {
        let home = cluster.home().index;
        let boots = cluster.boots()[&home];
        let image = |node: &Node| node.host.machine.path("/srv/P/svc/data/app-b/blk/root.img");
        for node in cluster.running() {
            fs::rename(image(node), image(node).with_extension("away")).unwrap();
        }
        let host = &cluster.home().host;
        host.ok(&["systemctl", "stop", "microvm@app-b.service"]);
        let reason = "app-b: /srv/P/svc/data/app-b/blk/root.img: does not exist";
        let as_xml = format!("exitreason=\"{reason}\"");
        let mon = |more: &[&str]| host.machine.run(&[&["crm_mon", "--one-shot"], more].concat()).stdout;
        wait_or_explain(
            "crm_mon to say why",
            || mon(&[]).contains(reason).then_some(()),
            || cluster.explain(),
        );
        assert!(mon(&["--output-as=xml"]).contains(&as_xml), "{}", mon(&["--output-as=xml"]));
        // It takes no other VM with it.
        host.ok(&["crm_resource", "--wait"]);
        let boots_now = cluster.boots()[&home];
        assert_eq!(boots_now, boots, "{}", cluster.explain());
        assert_eq!((host.state("net"), host.state("app-a")), ("running".into(), "running".into()));
        for node in cluster.running() {
            fs::rename(image(node).with_extension("away"), image(node)).unwrap();
        }
        host.ok(&["crm_resource", "--cleanup", "--resource", "vm-app-b"]);
        wait_for("app-b to be ready again", || (host.boots("app-b") > boots[2]).then_some(()));
        assert_eq!(cluster.home().index, home);
    });

    case(&mut cluster, "a host cut off from the others", |cluster| {
        let (home, boots) = (cluster.home().index, cluster.boots());
        cluster.cut_off(home);
        wait_or_explain(
            "the host that is cut off to be fenced",
            || cluster.fenced().contains(&NODES[home]).then_some(()),
            || cluster.explain(),
        );
        cluster.bury(home);
        cluster.wait_ready(&boots, Some(home));
    });
    addresses(&cluster);
    cluster.boot_missing();
    config(&cluster, "memory = 144\n");
    cluster.wait_online(3);

    case(&mut cluster, "a host shut down", |cluster| {
        let home = cluster.home().index;
        let boots = cluster.boots();
        let fenced = cluster.fenced();
        let host = &cluster.home().host;
        let note = "[Service]\nExecStopPost=+/bin/sh -c 'echo %i >>/srv/stopped'\n";
        host.machine.write("/etc/systemd/system/microvm@.service.d/note.conf", note);
        host.ok(&["systemctl", "daemon-reload"]);
        host.machine.write("/srv/stopped", "");
        let mut stopped = fs::File::open(host.machine.path("/srv/stopped")).unwrap();
        cluster.shut_down(home);
        cluster.wait_ready(&boots, Some(home));
        assert_eq!(cluster.fenced(), fenced);
        let mut names = String::new();
        stopped.read_to_string(&mut names).unwrap();
        assert!(names == "app-a\napp-b\nnet\n" || names == "app-b\napp-a\nnet\n", "{names}");
    });
    addresses(&cluster);
    println!("{}", cluster.end());
}
