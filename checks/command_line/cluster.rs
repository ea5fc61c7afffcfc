// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs that a cluster manages: who starts them, and what must be the same on all hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use microvm_spectrum::base::name::VmName;
use microvm_spectrum::link::id::LinkId;

use crate::namespace::mounts;
use crate::support::program::{parse, run};
use crate::support::skip::needs;
use crate::sync_host::{Host, host, key_in, script};

/// `systemctl` that notes how it is called.
fn systemctl(host: &Host) -> std::path::PathBuf {
    let bin = host.root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    script(&bin.join("systemctl"), &format!("echo \"$*\" >>'{}'\n", bin.join("calls").display()));
    bin
}

#[test]
fn start_and_stop_name_the_clusters_own_command() {
    let host = host();
    host.vm("app").provider("net");
    host.vm("net");
    host.vm("local");
    host.configure("[vm.app]\ncluster = true\n[vm.net]\ncluster = true\n");
    host.synced();
    let bin = systemctl(&host);
    let call = |arguments: &[&str]| {
        let _ = fs::remove_file(bin.join("calls"));
        let ran = run(host.call(arguments).env("PATH", &bin));
        (ran, fs::read_to_string(bin.join("calls")).unwrap_or_default())
    };
    for (verb, pcs) in [("start", "enable"), ("stop", "disable"), ("restart", "restart")] {
        let (ran, calls) = call(&[verb, "local", "app"]);
        ran.exits(1).complains(&[
            "the cluster manages app",
            &format!("'pcs resource {pcs} vm-app'"),
            &format!("'crm resource {verb} vm-app'"),
            "--force",
        ]);
        assert_eq!(calls, "");
        let (ran, calls) = call(&[verb, "local"]);
        ran.exits(0).says_nothing();
        assert!(calls.contains("microvm@local.service") && !calls.contains("ignore-dependencies"), "{calls}");
        let (ran, calls) = call(&[verb, "--force", "app", "local"]);
        ran.exits(0).says_nothing();
        assert!(calls.contains(&format!("{verb} -- microvm@app.service microvm@local.service")), "{calls}");
        // Pacemaker does so while systemd waits for Pacemaker.
        let first = "stop --no-block --job-mode=ignore-dependencies -- microvm@app.service\n";
        assert_eq!(calls.starts_with(first), verb == "stop", "{calls}");
    }
    // All are those that this host manages.
    let (ran, calls) = call(&["start", "--all"]);
    ran.exits(0);
    assert!(calls.contains("start -- microvm@local.service\n"), "{calls}");
    let list = run(&mut host.call(&["list"])).exits(0).stdout;
    let row = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(row("app").ends_with("  cluster") && !row("local").contains("cluster"), "{list}");
    let list = run(&mut host.call(&["list", "--json"])).exits(0).stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let of = |name: &str| {
        list["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == name).unwrap().get("cluster").cloned()
    };
    assert_eq!((of("app"), of("local")), (Some(true.into()), None));
    let status = run(&mut host.call(&["status", "app"])).exits(0).stdout;
    assert!(status.contains("managed     by the cluster"), "{status}");
}

#[test]
fn pacemakers_agent_ends_with_ocf_statuses_and_says_why() {
    let host = host();
    host.vm("app");
    host.vm("odd");
    host.configure("[defaults]\ncluster = true\n");
    host.synced();
    fs::remove_file(host.partition.root.join("svc/data/odd/vmlinux")).unwrap();
    run(&mut host.sync()).exits(1);
    let bin = systemctl(&host);
    let systemd = |shows: &str| script(&bin.join("systemctl"), &format!("[ \"$1\" != show ] || {shows}\n"));
    let agent = |vm: &str, action: &str, variables: &[(&str, &str)]| {
        let mut call = host.unit_calls(&["ocf-agent", action]);
        call.env("PATH", &bin).env("OCF_RESKEY_name", vm).envs(variables.iter().copied());
        run(&mut call)
    };
    let repeated = ("OCF_RESKEY_CRM_meta_interval", "10000");
    let once = ("OCF_RESKEY_CRM_meta_interval", "0");
    let of_stopped = ("OCF_RESKEY_CRM_meta_role", "Stopped");

    run(&mut host.unit_calls(&["ocf-agent"])).exits(3).complains(&["usage: vm start|stop|monitor"]);
    agent("app", "promote", &[]).exits(3);
    for action in ["start", "stop", "monitor", "validate-all"] {
        agent("", action, &[]).exits(6).complains(&["ocf-exit-reason:the parameter name is not set\n"]);
    }
    for (name, start) in [("none", "ocf-exit-reason:there is no VM 'none'"), ("a\x1bb", "no VM 'a\\u{1b}b'")]
    {
        agent(name, "start", &[]).exits(5).complains(&[start]);
        agent(name, "validate-all", &[]).exits(5).complains(&[start]);
        agent(name, "monitor", &[]).exits(7);
        agent(name, "stop", &[]).exits(0);
    }
    let why = format!("{}/svc/data/odd/vmlinux: ", host.partition.root.display());
    agent("odd", "start", &[]).exits(5).complains(&[&format!("ocf-exit-reason:odd cannot run: {why}")]);
    agent("odd", "stop", &[]).exits(0);

    systemd("printf 'Id=microvm@app.service\\nActiveState=active\\nSubState=running\\nResult=success\\n'");
    agent("app", "monitor", &[repeated]).exits(0).says_nothing();
    agent("app", "validate-all", &[]).exits(0).says_nothing();
    agent("app", "stop", &[]).exits(1).complains(&["ocf-exit-reason:app: is still running\n"]);
    // A guest's words are no terminal's and no line of their own.
    let failed = "printf 'Id=microvm@app.service\\nActiveState=failed\\nSubState=failed\\nResult=exit-code\\n\
                  StatusText=gone \\033[31m\\\\\\nExecMainStatus=5\\n'";
    systemd(failed);
    let reason = "ocf-exit-reason:app: gone \\u{1b}[31m\\\\\n";
    agent("app", "monitor", &[repeated]).exits(1).complains(&[reason]);
    for variables in [vec![], vec![once], vec![repeated, of_stopped]] {
        agent("app", "monitor", &variables).exits(7).says_nothing();
    }
    agent("app", "stop", &[]).exits(0);
    systemd("exit 1");
    agent("app", "monitor", &[]).exits(1).complains(&["ocf-exit-reason:app: systemd does not say"]);
    agent("app", "stop", &[]).exits(1).complains(&["ocf-exit-reason:app: systemd does not say"]);
    fs::remove_file(bin.join("systemctl")).unwrap();
    agent("app", "start", &[]).exits(1).complains(&["ocf-exit-reason:systemctl cannot be started"]);

    let catalog = host.state.join(".microvm-spectrum/current/catalog.json");
    fs::write(&catalog, "{}").unwrap();
    let reason = format!("ocf-exit-reason:{}: ", catalog.display());
    agent("app", "start", &[]).exits(5).complains(&[&reason]);

    // What it says of itself has the timeouts that the resources have.
    let metadata = run(&mut host.unit_calls(&["ocf-agent", "meta-data"])).exits(0).stdout;
    assert!(metadata.starts_with("<?xml version=\"1.0\"?>\n") && metadata.ends_with("</resource-agent>\n"));
    for action in [
        "name=\"start\" timeout=\"150s\"",
        "name=\"stop\" timeout=\"120s\"",
        "name=\"monitor\" timeout=\"60s\" interval=\"10s\" depth=\"0\"",
        "name=\"monitor\" role=\"Stopped\" timeout=\"60s\" interval=\"45s\" depth=\"0\"",
    ] {
        assert!(metadata.contains(&format!("    <action {action}/>\n")), "{metadata}");
    }
}

#[test]
fn a_client_wants_no_provider_of_the_cluster() {
    needs!(mounts());
    let host = host();
    host.vm("app").provider("net").provider("own");
    host.vm("net");
    host.vm("own");
    host.vm("local").provider("net").provider("own");
    let drop_in = |name: &str| {
        let normal = host.root.join("normal");
        let _ = fs::remove_dir_all(&normal);
        run(host.unit_calls(&["generate"]).arg(&normal)).exits(0);
        let text =
            fs::read_to_string(normal.join(format!("microvm@{name}.service.d/50-microvm-spectrum.conf")));
        let pacemaker = fs::read_to_string(normal.join("pacemaker.service.d/50-microvm-spectrum.conf"));
        (text.unwrap(), pacemaker.unwrap_or_default())
    };
    host.synced();
    let (before, pacemaker) = drop_in("local");
    assert!(before.contains("Wants=microvm@net.service") && !before.contains("pacemaker"), "{before}");
    assert_eq!(pacemaker, "");
    host.configure("[vm.app]\ncluster = true\n[vm.net]\ncluster = true\n");
    host.synced();
    let ordered = "After=microvm@net.service\n";
    let before_pacemaker = "Before=pacemaker.service pacemaker_remote.service\n";
    for (name, is_clusters, is_client) in
        [("app", true, true), ("net", true, false), ("local", false, true), ("own", false, false)]
    {
        let (text, pacemaker) = drop_in(name);
        assert!(!text.contains("Wants=microvm@net.service"), "{text}");
        assert_eq!(text.contains("Wants=microvm@own.service"), is_client, "{text}");
        assert_eq!(text.contains(ordered), is_client, "{text}");
        assert_eq!(text.contains(before_pacemaker), is_clusters, "{text}");
        assert!(pacemaker.contains("After=microvm-spectrum-sync.service"), "{pacemaker}");
    }
    // It is all the VM's own drop-in says.
    let key = key_in;
    let (now, _) = drop_in("local");
    assert_ne!(key(&before), key(&now));
    run(&mut host.set_booted("local")).exits(0).says_nothing();
}

#[test]
fn what_other_hosts_may_give_another_id_is_noted_and_printed() {
    let host = host();
    // Two clients whose links would have one id.
    let net = VmName::new("net").unwrap();
    let derived = |name: &str| LinkId::derive(&VmName::new(name).unwrap(), &net, &BTreeSet::new()).unwrap();
    let mut seen = BTreeMap::new();
    let (one, other) = (0..)
        .map(|number| format!("c{number}"))
        .find_map(|name| seen.insert(derived(&name), name.clone()).map(|other| (other, name)))
        .unwrap();
    host.vm("net");
    host.vm("free").provider("net");
    host.vm(&one).provider("net");
    host.vm(&other).provider("net");
    let cluster = "[defaults]\ncluster = true\n";
    host.synced();
    let print = || run(host.sync().arg("--print-pins")).exits(0).stdout;
    assert_eq!(print(), "");
    host.configure(cluster);
    let ran = run(&mut host.sync()).exits(0);
    let (problems, _) = parse(&ran.stderr);
    let noted: BTreeSet<_> =
        problems.iter().map(|it| it.text.split(": ").next().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(noted, BTreeSet::from([one.as_str(), &other]), "{}", ran.stderr);
    assert!(problems.iter().all(|it| it.help.contains("sync --print-pins")), "{problems:?}");
    let pins = print();
    let link =
        |name: &str| host.in_catalog(&format!("user/{name}"))["links"][0]["id"].as_str().unwrap().to_owned();
    for name in [&one, &other] {
        let wanted = format!("[vm.\"user/{name}\"]\nlinks = {{ \"net\" = \"{}\" }}\n", link(name));
        assert!(pins.contains(&wanted), "{pins}");
    }
    assert_eq!(pins.lines().count(), 4, "{pins}");
    // With these lines, nothing is left to note, on a host that has the VMs in another order, too.
    host.configure(&format!("{cluster}{pins}"));
    run(&mut host.sync()).exits(0).warns_of_nothing();
    assert_eq!(print(), "");
    let second = host.root.join("second-host");
    run(&mut host.sync_to(&second)).exits(0).warns_of_nothing();
    // A lease of a removed VM counts, too.
    host.configure(cluster);
    fs::remove_dir_all(host.partition.root.join("svc/data").join(&one)).unwrap();
    run(&mut host.sync()).exits(0);
    assert!(print().contains(&format!("[vm.\"user/{other}\"]")));
}
