# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The host module starts two linked VMs and one with a shared directory; the console
# answers, and the VMs are shut down.
{ self }:
{ pkgs, ... }:
let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) vm-netvm vm-appvm-online vm-appvm-hello;
in
{
  name = "microvm-spectrum-linked-vms";

  nodes.host = { lib, ... }: {
    imports = [ (import ./host.nix { inherit self; }) ];
    # NixOS' default, which tests of machines switch off.
    networking.useDHCP = lib.mkForce true;
    services.microvm-spectrum.vms = {
      netvm.runner = vm-netvm;
      appvm-online.runner = vm-appvm-online;
      appvm-hello.runner = vm-appvm-hello;
    };
  };

  testScript = ''
    import shlex

    def console(vm, line, answer):
        # The console does not end with its input.
        command = f"(echo {shlex.quote(line)}; sleep 20) | timeout 30 microvm-spectrum console {vm} || true"
        host.wait_until_succeeds(f"said=$({command}); grep -F {shlex.quote(answer)} <<<$said", timeout=300)

    host.wait_for_unit("multi-user.target")
    host.succeed("microvm-spectrum list | grep appvm-online")

    with subtest("a client brings its provider with it"):
        host.succeed("microvm-spectrum start appvm-online", timeout=600)
        host.wait_for_unit("microvm@appvm-online.service")
        host.wait_for_unit("microvm@netvm.service")
        host.wait_until_succeeds("journalctl -u microvm@appvm-online | grep 'guest: ready'", timeout=300)
        host.wait_until_succeeds("journalctl -u microvm@netvm | grep 'provider of ${(builtins.head vm-appvm-online.links).clientIpv4}'", timeout=300)

    with subtest("the client reaches its provider"):
        console("appvm-online", "ping -c 1 -w 60 169.254.0.1", "1 packets received")

    with subtest("the host takes no address and no route from a guest"):
        serve = "interface eth0\\nstart 10.99.0.2\\nend 10.99.0.9\\noption subnet 255.255.255.0\\noption router 10.99.0.1\\nlease_file /tmp/leases\\n"
        for vm in ["netvm", "appvm-online"]:
            start = "ip address add 10.99.0.1/24 dev eth0; touch /tmp/leases; udhcpd /tmp/dhcp && echo done | tr d D"
            console(vm, f"printf '{serve}' >/tmp/dhcp; {start}", "Done")
        host.succeed("systemctl restart dhcpcd.service")
        host.sleep(60)
        host.succeed("! ip -4 address show | grep -E 'inet (10\\.99|169\\.254|100\\.64)\\.'")
        host.succeed("! ip route show | grep -E '10\\.99\\.|vm[bcr]-'")

    with subtest("a shared directory"):
        host.succeed("microvm-spectrum start appvm-hello", timeout=600)
        host.wait_until_succeeds("journalctl -u microvm@appvm-hello | grep 'guest: ready'", timeout=300)
        console("appvm-hello", "mount -t virtiofs greeting /mnt; cat /mnt/hello.txt", "Hello from a shared directory.")

    with subtest("no VM runs as root"):
        host.succeed("pgrep -f '[q]emu-system'")
        host.fail("pgrep -u root -f '[q]emu-system'")

    with subtest("all are shut down"):
        host.succeed("microvm-spectrum stop appvm-hello appvm-online netvm", timeout=300)
        for vm in ["appvm-hello", "appvm-online", "netvm"]:
            host.wait_until_fails(f"systemctl is-active --quiet microvm@{vm}.service")
            host.succeed(f"journalctl -u microvm@{vm} | grep 'the guest powered off'")
        host.succeed("! ip -n microvm-spectrum -brief link | grep -E '^vm[bcr]-'")
  '';
}
