// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! VMs with windows in units: a reset of the guest gives it a new VMM, and nothing else changes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::guest::part;
use crate::support::installed::Host;
use crate::support::links::{PROVIDER, client, link, said, wait_answers};
use crate::support::program::WITHOUT_THE_DEVICE;
use crate::support::skip::needs;
use crate::support::systemd_machine::is_possible;

#[test]
fn a_reset_keeps_links_and_shares() {
    needs!(is_possible());
    let host = Host::new();
    let stand_in = "/usr/local/bin/qemu-stand-in";
    let qemu = part("QEMU");
    host.machine.write(stand_in, &WITHOUT_THE_DEVICE.replace("QEMU", qemu.to_str().unwrap()));
    fs::set_permissions(host.machine.path(stand_in), fs::Permissions::from_mode(0o755)).unwrap();
    let config = host.machine.path("/etc/microvm-spectrum/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(qemu.to_str().unwrap(), stand_in)).unwrap();
    host.vm_with_share("netvm");
    client(&host, "one", &["netvm"]);
    for vm in ["netvm", "one"] {
        host.machine.write(&format!("/srv/P/svc/data/{vm}/wayland"), "");
    }
    host.sync();
    host.start("one");
    wait_answers(&host, "one", PROVIDER);
    let pid = |vm: &str| host.machine.property(&format!("microvm@{vm}.service"), "MainPID");
    let supervisors = [pid("netvm"), pid("one")];

    host.in_guest("one", "(sleep 1; reboot -f) &");
    host.wait_boots("one", 2);
    wait_answers(&host, "one", PROVIDER);

    host.in_guest("netvm", "mount-share home /mnt; (sleep 1; reboot -f) &");
    host.wait_boots("netvm", 2);
    assert_eq!(host.in_guest("netvm", "mount-share home /mnt; cat /mnt/from-host"), "hello from the host");
    wait_answers(&host, "one", PROVIDER);
    let plugged = format!("link {} is plugged in", link(&host, "one", "netvm"));
    assert_eq!(said(&host, "netvm", &plugged), 2);
    assert_eq!([pid("netvm"), pid("one")], supervisors);
    host.run(&["stop", "one", "netvm"]).exits(0);
    assert_eq!((host.state("one"), host.state("netvm")), ("stopped".to_owned(), "stopped".to_owned()));
}
