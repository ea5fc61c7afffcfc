# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# microvm.vms.<name>.flake: microvm.nix's host module installs and starts the VMs.
{ microvm, microvm-spectrum }:
{
  name = "microvm-spectrum-under-microvm-nix-declarative";

  nodes.host = {
    imports = [ microvm.nixosModules.host ];
    microvm.vms = {
      appvm-hello.flake = microvm-spectrum;
      netvm.flake = microvm-spectrum;
    };
    virtualisation = {
      memorySize = 2048;
      cores = 2;
    };
  };

  testScript = ''
    host.wait_for_unit("microvms.target")
    for vm in ["appvm-hello", "netvm"]:
        host.wait_for_unit(f"microvm@{vm}.service", timeout=600)
        host.wait_until_succeeds(f"journalctl -u microvm@{vm} | grep 'guest: ready'", timeout=300)
    host.succeed("systemctl stop microvm@appvm-hello.service", timeout=300)
    host.succeed("journalctl -u microvm@appvm-hello | grep 'the guest powered off'")
  '';
}
