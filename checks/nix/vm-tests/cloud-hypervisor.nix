# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A guest under Cloud Hypervisor, where the machine has nested KVM.
{ self }:
{ pkgs, ... }:
let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) vm-netvm;
in
{
  name = "microvm-spectrum-cloud-hypervisor";

  nodes.host = {
    imports = [ (import ./host.nix { inherit self; }) ];
    services.microvm-spectrum.vms.netvm.runner = vm-netvm.override {
      hypervisor = "cloud-hypervisor";
      accel = "auto";
    };
  };

  testScript = ''
    host.wait_for_unit("multi-user.target")
    status, _ = host.execute("test -c /dev/kvm")
    if status != 0:
        print("skipped: this machine has no nested KVM")
    else:
        with subtest("it runs"):
            host.succeed("microvm-spectrum start netvm", timeout=300)
            host.wait_until_succeeds("journalctl -u microvm@netvm | grep 'guest: ready'", timeout=120)
            host.succeed("pgrep -f '[c]loud-hypervisor'")
            host.fail("pgrep -u root -f '[c]loud-hypervisor'")

        with subtest("it is shut down"):
            host.succeed("microvm-spectrum stop netvm", timeout=300)
            host.succeed("journalctl -u microvm@netvm | grep 'the guest powered off'")
  '';
}
