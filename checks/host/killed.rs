// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `kill -9` of everything that a VM consists of.

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;
use crate::support::waiting::wait_for;

/// What the processes of a VM have in their command lines.
const SUPERVISOR: &str = "microvm-spectrum vm run";
const VMM: &str = "qemu-system";
const SERVERS: &str = "microvm-spectrum host .* virtiofsd";
const VIRTIOFSD: &str = "virtiofsd --fd";

#[test]
fn whatever_is_killed_the_vm_comes_back_whole() {
    needs!(is_possible());
    let host = Host::new();
    host.vm_with_share("appvm");
    // A second share: one of two virtiofsd is killed.
    let second = host.machine.path("/srv/P/svc/data/appvm/shared-dirs/more");
    std::fs::create_dir(&second).unwrap();
    std::os::unix::fs::symlink("/ext/shared-appvm", second.join("dir")).unwrap();
    host.sync();
    host.start("appvm");
    let all = [SUPERVISOR, VMM, SERVERS, VIRTIOFSD];
    let cases: [&[&str]; 5] = [&[SUPERVISOR], &[VMM], &[SERVERS], &[VIRTIOFSD], &all];
    for (index, killed) in cases.into_iter().enumerate() {
        let before: Vec<_> = all.iter().flat_map(|pattern| host.processes(pattern)).collect();
        let mut victims: Vec<_> = killed.iter().flat_map(|pattern| host.processes(pattern)).collect();
        assert!(victims.len() >= killed.len(), "{killed:?}: {victims:?}");
        if killed == [VIRTIOFSD] {
            // Of the first server only.
            victims.truncate(1);
        }
        host.machine.run(
            &[&["kill", "-KILL"], victims.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat(),
        );
        host.wait_boots("appvm", index + 2);
        host.machine.wait_active("microvm@appvm.service");
        assert_eq!(
            host.in_guest(
                "appvm",
                "mkdir /tmp/a /tmp/b; mount-share home /tmp/a; mount-share more /tmp/b; cat /tmp/?/from-host"
            ),
            "hello from the host\nhello from the host",
            "after {killed:?}"
        );
        // Nothing of before is left.
        let now: Vec<_> = all.iter().flat_map(|pattern| host.processes(pattern)).collect();
        assert!(now.iter().all(|pid| !before.contains(pid)), "{killed:?}: {before:?} {now:?}");
    }
    host.run(&["stop", "appvm"]).exits(0);
    wait_for("the end of all", || all.iter().all(|pattern| host.processes(pattern).is_empty()).then_some(()));
}
