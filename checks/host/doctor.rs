// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `doctor`: what a host lacks.

use crate::support::installed::Host;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;

#[test]
fn a_host_that_can_run_vms_lacks_no_more_than_it_lost() {
    needs!(is_possible());
    let host = Host::new();
    host.vm("app");
    host.sync();
    // This machine may be without KVM or Cloud Hypervisor, of which notes tell.
    let before = host.run(&["doctor"]).exits(0).stdout;
    let is_error = |line: &str| line.starts_with("error: ");
    assert!(!before.lines().any(is_error) && !before.contains("microvm@"), "{before}");

    host.machine.write("/srv/damaged/.microvm-spectrum/current/catalog.json", "{}");
    let said = host.run(&["doctor", "--state-dir", "/srv/damaged"]).exits(1).stdout;
    assert!(said.contains("error: /srv/damaged/.microvm-spectrum/current/catalog.json: "), "{said}");

    let nft = host.ok(&["sh", "-c", "readlink -f \"$(command -v nft)\""]);
    host.ok(&["mv", &nft, "/srv/nft"]);
    let unit = "/usr/local/lib/systemd/system/microvm@.service";
    host.machine.write(unit, &host.machine.read(unit).replace("KillMode=mixed\n", ""));
    host.machine.write(
        "/etc/systemd/system/microvm@app.service.d/bad.conf",
        "[Service]\nRestart=no\nExecStartPre=/bin/false\n",
    );
    host.ok(&["systemctl", "daemon-reload"]);
    host.machine.run(&["systemctl", "start", "microvm@app.service"]);
    // Without the account of its user, systemd would skip the start.
    host.machine.write("/etc/nsswitch.conf", "passwd: files\ngroup: files systemd\n");
    let said = host.run(&["doctor"]).exits(3).stdout;
    for (finding, remedy) in [
        ("error: nft: is not in PATH", "install it (package nftables "),
        ("error: /etc/nsswitch.conf: does not name systemd for passwd: ", "install nss-systemd "),
        (
            &format!("note: {unit}: is missing, or of another version"),
            "install them: microvm-spectrum units ",
        ),
        ("note: microvm@app.service: has failed", "look at microvm-spectrum status app;"),
    ] {
        let after = said.split(finding).nth(1).unwrap_or_else(|| panic!("no {finding:?} in {said}"));
        let help = after.split_once("\n  help: ").unwrap().1;
        assert!(help.starts_with(remedy), "{finding}: {help}");
    }
    assert!(!said.contains("for group"), "{said}");
}
