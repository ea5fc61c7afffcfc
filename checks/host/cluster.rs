// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What Pacemaker calls on a host, without a Pacemaker: its agent for VMs, and the order in
//! which a host that shuts down stops them. `make check-cluster` has a whole cluster.

use std::fs;
use std::io::Read as _;
use std::process::Command;

use crate::support::installed::Host;
use crate::support::links::client;
use crate::support::program::Ran;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

const AGENT: &str = "/usr/local/lib/ocf/resource.d/microvm-spectrum/vm";
const SUCCESS: i32 = 0;
const FAILS: i32 = 1;
const NOT_INSTALLED: i32 = 5;
const NOT_CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;
/// A monitor that Pacemaker repeats where the VM should run.
const RECURRING: &str = "OCF_RESKEY_CRM_meta_interval=10000";

fn agent(host: &Host, environment: &[&str], action: &str) -> Ran {
    host.machine.run(&[&["env"], environment, &[AGENT, action]].concat())
}

#[test]
fn pacemakers_agent_and_the_order_of_a_shutdown() {
    needs!(is_possible());
    let host = Host::new();
    let shared = host.vm_with_share("net");
    let app = client(&host, "app", &["net"]);
    host.configure("[vm.app]\ncluster = true\n[vm.net]\ncluster = true\n");
    host.sync();
    let call = |action: &str| agent(&host, &["OCF_RESKEY_name=app"], action);
    let monitor = |more: &[&str]| agent(&host, &[&["OCF_RESKEY_name=app"], more].concat(), "monitor");

    let metadata = agent(&host, &[], "meta-data").exits(SUCCESS).stdout;
    assert!(metadata.contains("<parameter name=\"name\"") && metadata.ends_with("</resource-agent>\n"));
    agent(&host, &[], "validate-all")
        .exits(NOT_CONFIGURED)
        .complains(&["ocf-exit-reason:the parameter name"]);
    agent(&host, &["OCF_RESKEY_name=none"], "validate-all").exits(NOT_INSTALLED);
    agent(&host, &["OCF_RESKEY_name=none"], "monitor").exits(NOT_RUNNING);
    agent(&host, &["OCF_RESKEY_name=none"], "start")
        .exits(NOT_INSTALLED)
        .complains(&["ocf-exit-reason:there is no VM 'none'"]);
    agent(&host, &["OCF_RESKEY_name=none"], "stop").exits(SUCCESS);
    agent(&host, &["OCF_RESKEY_name=app"], "promote").exits(3);
    call("validate-all").exits(SUCCESS);
    monitor(&[]).exits(NOT_RUNNING);

    // A helper that takes its time is not a VM that does not run.
    let waits = "[Service]\nExecStartPre=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'\n";
    host.machine.write("/etc/systemd/system/microvm-tap-interfaces@app.service.d/waits.conf", waits);
    host.ok(&["systemctl", "daemon-reload"]);
    host.ok(&["systemctl", "start", "--no-block", "microvm@app.service"]);
    host.machine.wait_state("microvm-tap-interfaces@app.service", "activating");
    assert_eq!(host.state("app"), "starting");
    let line = ["OCF_RESKEY_name=app", RECURRING, AGENT, "monitor"];
    let mut waiting = host.machine.command("env", line).spawn().unwrap();
    // Nothing has started the provider: Pacemaker would.
    assert_eq!(host.state("net"), "stopped");
    assert!(waiting.try_wait().unwrap().is_none());
    host.machine.write("/run/go", "");
    assert_eq!(wait_for("the monitor", || waiting.try_wait().unwrap()).code(), Some(SUCCESS));
    call("start").exits(SUCCESS);
    monitor(&[RECURRING]).exits(SUCCESS);
    // systemd starts it again by itself.
    let supervisor = || host.machine.property("microvm@app.service", "MainPID");
    let before = supervisor();
    host.ok(&["kill", "-KILL", &before]);
    monitor(&[RECURRING]).exits(SUCCESS);
    wait_for("another supervisor", || (supervisor() != before && supervisor() != "0").then_some(()));
    monitor(&[RECURRING]).exits(SUCCESS);
    call("stop").exits(SUCCESS);
    monitor(&[]).exits(NOT_RUNNING);
    call("stop").exits(SUCCESS);

    // Why it does not start reaches crm_mon.
    let image = app.join("blk/root.img");
    fs::rename(&image, app.join("away")).unwrap();
    let reason = "ocf-exit-reason:app: /srv/P/svc/data/app/blk/root.img: does not exist";
    call("start").exits(FAILS).complains(&[reason]);
    monitor(&[RECURRING]).exits(FAILS).complains(&["ocf-exit-reason:app: ", "root.img: does not exist"]);
    monitor(&[RECURRING, "OCF_RESKEY_CRM_meta_role=Stopped"]).exits(NOT_RUNNING);
    monitor(&[]).exits(NOT_RUNNING);
    call("stop").exits(SUCCESS);
    // The same where the directory is known to be broken.
    host.run(&["sync"]).exits(1);
    call("start")
        .exits(NOT_INSTALLED)
        .complains(&["ocf-exit-reason:app cannot run: /srv/P/svc/data/app/blk: holds no"]);
    call("stop").exits(SUCCESS);
    fs::rename(app.join("away"), &image).unwrap();
    host.sync();

    // Directories that hosts share need one user id on all of them. This one is a FUSE, as GlusterFS is.
    host.run(&["sync", "--print-pins"]).exits(0).says_nothing();
    let image = host.machine.path("/srv/shared.squashfs");
    assert!(Command::new("mksquashfs").arg(&shared).arg(image).arg("-quiet").status().unwrap().success());
    host.ok(&["squashfuse", "/srv/shared.squashfs", "/srv/P/shared-net"]);
    let ran = host.run(&["sync"]).exits(0);
    let uid = host.row("net")["uid"].to_string();
    ran.complains(&[&format!("svc/data/net: has the user id {uid}, "), "--print-pins"]);
    let pins = host.run(&["sync", "--print-pins"]).exits(0).stdout;
    assert_eq!(pins, format!("[vm.\"user/net\"]\nuid = {uid}\n"));
    host.configure(&format!("[vm.app]\ncluster = true\n[vm.net]\ncluster = true\nuid = {uid}\n"));
    host.run(&["sync"]).exits(0).warns_of_nothing();
    assert_eq!(host.run(&["sync", "--print-pins"]).exits(0).stdout, "");
    host.ok(&["umount", "/srv/P/shared-net"]);
    host.sync();

    let xml = host.run(&["graph", "--format", "cib"]).exits(0).stdout;
    if host.machine.run(&["sh", "-c", "command -v crm_verify"]).status == 0 {
        let options = "<crm_config><cluster_property_set id=\"o\"><nvpair id=\"s\" name=\"stonith-enabled\" \
                       value=\"false\"/></cluster_property_set></crm_config><nodes/><resources>";
        let whole = xml.replacen("<resources>", options, 1);
        let cib = "<cib validate-with=\"pacemaker-3.6\" epoch=\"1\" num_updates=\"0\" admin_epoch=\"0\">";
        host.machine.write("/srv/cib.xml", &format!("{cib}{whole}<status/></cib>"));
        host.ok(&["crm_verify", "--xml-file", "/srv/cib.xml"]);
    }

    // A host that shuts down: Pacemaker stops its VMs, and systemd none before it.
    let log = "/srv/log";
    let note = "[Service]\nExecStopPost=+/bin/sh -c 'echo stopped %i >>/srv/log'\n";
    host.machine.write("/etc/systemd/system/microvm@.service.d/note.conf", note);
    let stop = |vm: &str| format!("OCF_RESKEY_name={vm} {AGENT} stop; echo {vm} $? >>{log}");
    let script =
        format!("#!/bin/sh\necho begin >>{log}\n{}\n{}\necho end >>{log}\n", stop("app"), stop("net"));
    host.machine.write("/usr/local/bin/leave", &script);
    host.machine.write(
        "/etc/systemd/system/pacemaker.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=/bin/sh /usr/local/bin/leave\n",
    );
    host.ok(&["systemctl", "daemon-reload"]);
    host.ok(&["systemctl", "start", "pacemaker.service"]);
    let boots = ["net", "app"].map(|vm| (vm, host.boots(vm)));
    agent(&host, &["OCF_RESKEY_name=net"], "start").exits(SUCCESS);
    call("start").exits(SUCCESS);
    // Their guests take the power button then.
    boots.into_iter().for_each(|(vm, before)| host.wait_boots(vm, before + 1));
    host.machine.write(log, "");
    let mut log = fs::File::open(host.machine.path(log)).unwrap();
    // Fails if it does not power off in time.
    drop(host);
    let mut noted = String::new();
    log.read_to_string(&mut noted).unwrap();
    assert_eq!(noted, "begin\nstopped app\napp 0\nstopped net\nnet 0\nend\n");
}
