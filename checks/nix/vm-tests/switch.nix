# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A switch to a configuration with other units, other settings and another package
# of a VM leaves VMs running, with the processes that they had.
{ self }:
{ pkgs, ... }:
let
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) vm-netvm;
  inherit (vm-netvm) vmDir;
  # What the links of ./vms/appvm-path lead to on a Spectrum system.
  images = pkgs.runCommand "images" { } ''
    mkdir $out
    ln -s ${vmDir}/vmlinux $out/vmlinux
    ln -s ${vmDir}/blk/root.img $out/root.img
  '';
  memory = "systemd/system.control/microvm@netvm.service.d/memory.conf";
in
{
  name = "microvm-spectrum-switch";

  nodes.host =
    { lib, ... }:
    {
      imports = [ (import ./host.nix { inherit self; }) ];
      services.microvm-spectrum.vms = {
        netvm.runner = vm-netvm;
        appvm-path = {
          vmDir = ./vms/appvm-path;
          allow."/usr/img" = "${images}";
        };
      };
      # For one VM, and for all.
      environment.etc.${memory}.text = ''
        [Service]
        MemoryMax=1G
      '';
      systemd.services."microvm@".serviceConfig.CPUWeight = 50;

      specialisation.other.configuration = {
        environment.etc.${memory}.enable = lib.mkForce false;
        systemd.services."microvm@".serviceConfig.CPUWeight = lib.mkForce 60;
        services.microvm-spectrum.vms.appvm-path.memory = 256;
      };
    };

  testScript = ''
    vms = ["appvm-path", "netvm"]

    def value(vm, name):
        return host.succeed(f"systemctl show --property={name} --value microvm@{vm}.service").strip()

    def processes():
        return [value(vm, "MainPID") for vm in vms] + host.succeed("pgrep -f '[q]emu-system'").split()

    def switch_to(system):
        host.succeed(f"{system}/bin/switch-to-configuration test", timeout=600)

    host.wait_for_unit("multi-user.target")
    for vm in vms:
        host.succeed(f"microvm-spectrum start {vm}", timeout=600)
        host.wait_until_succeeds(f"journalctl -u microvm@{vm} | grep 'guest: ready'", timeout=300)
    before = processes()

    with subtest("a drop-in of one VM leaves that of all in force"):
        assert value("netvm", "MemoryMax") == str(1 << 30)
        assert value("netvm", "CPUWeight") == value("appvm-path", "CPUWeight") == "50"

    with subtest("to another specialisation"):
        switch_to("/run/booted-system/specialisation/other")
        assert processes() == before
        assert value("netvm", "MemoryMax") == "infinity"
        assert value("netvm", "CPUWeight") == "60"
        host.succeed("microvm-spectrum list | grep appvm-path | grep -i stale")

    with subtest("and back"):
        switch_to("/run/booted-system")
        assert processes() == before
        assert value("netvm", "MemoryMax") == str(1 << 30)
  '';
}
