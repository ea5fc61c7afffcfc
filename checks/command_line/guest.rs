// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a guest's script does with interfaces and name servers that no test guest has, with
//! stand-ins for `ip`, `nft` and a DHCP client, in a network and mounts of its own.

use std::path::Path;

use crate::namespace::{mounts, shell};
use crate::support::program::run;
use crate::support::skip::needs;

/// Serves the interfaces of a provider with an uplink, and waits for `$2` in its rules after `$3`
/// was executed, which the rules did not have before.
const SERVE: &str = r#"
set -eu
mount -t tmpfs none /run
mount -t tmpfs none /sys/class/net
mount -t tmpfs none /usr/local/sbin
[ ! -e /dev/console ] || mount --bind /dev/null /dev/console
for stand_in in 'ip:' 'udhcpc:' 'nft:cat >>/run/rules'; do
    printf '#!/bin/sh\n%s\n' "${stand_in#*:}" >"/usr/local/sbin/${stand_in%%:*}"
    chmod 755 "/usr/local/sbin/${stand_in%%:*}"
done
number=1
# Neither of the first two has an Ethernet address.
for interface in a- b-80:00:02:08:fe eth0-02:00:00:00:00:01 eth1-0a:b3:ec:80:d7:24; do
    path=/sys/class/net/${interface%%-*}
    mkdir -p "$path/device"
    number=$((number + 1))
    echo $number >"$path/ifindex"
    echo "${interface#*-}" >"$path/address"
done
: >/run/rules
"$4" "$1" interfaces &
until grep -q masquerade /run/rules; do sleep 0.05; done
if grep -q "$2" /run/rules; then exit 1; fi
eval "$3"
until grep -q "$2" /run/rules; do sleep 0.05; done
kill $!
"#;

#[test]
fn a_guests_clients_ask_the_name_server_that_is_known_last() {
    needs!(mounts());
    let place = Path::new("/usr/local/sbin").is_dir();
    needs!(place.then_some(()).ok_or("there is no /usr/local/sbin for stand-ins"));
    let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/microvm-guest");
    let resolved = "mkdir -p /run/systemd/resolve; printf '%s\\n%s' 'nameserver fe80::1' \
                    'nameserver 192.0.2.53' >/run/systemd/resolve/resolv.conf";
    for sh in ["sh", "bash"] {
        let script = format!(
            "exec timeout 300 unshare --net --pid --fork --kill-child sh -c '{}' sh \"$@\"",
            SERVE.replace('\'', "'\\''")
        );
        let to = "udp dport 53 dnat to 192.0.2.53";
        run(&mut shell(&script, [guest.as_os_str(), to.as_ref(), resolved.as_ref(), sh.as_ref()])).exits(0);
    }
}
