# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A user partition that is mounted after the host has booted: its VM appears, runs,
# and goes with it. A VM of the same name that the host has already is shadowed.
{ self }:
{ pkgs, ... }:
let
  vm = self.packages.${pkgs.stdenv.hostPlatform.system}.vm-netvm;
  # A VM directory with the kernel and the image of an example.
  makeVm = pkgs.writeText "make-vm" ''
    cp -L ${vm.system}/svc/data/netvm/vmlinux "$1/vmlinux"
    mkdir "$1/blk"
    cp -L ${vm.system}/svc/data/netvm/blk/root.img "$1/blk/root.img"
  '';
in
{
  name = "microvm-spectrum-late-source";

  nodes.host = {
    imports = [ (import ./host.nix { inherit self; }) ];
    services.microvm-spectrum = {
      sources = [
        {
          kind = "user-partition";
          name = "late";
          path = "/media/late";
        }
      ];
      vms.netvm.runner = vm;
    };
    virtualisation.emptyDiskImages = [ 512 ];
    environment.etc."make-vm".source = makeVm;
  };

  testScript = ''
    host.wait_for_unit("multi-user.target")
    host.succeed("mkfs.ext4 -L late /dev/vdb")
    host.succeed("mkdir -p /media/late && mount /dev/vdb /media/late")
    for vm in ["appvm-late", "netvm"]:
        host.succeed(f"mkdir -p /media/late/svc/data/{vm} && sh /etc/make-vm /media/late/svc/data/{vm}")
    host.succeed("umount /media/late")
    host.succeed("microvm-spectrum sync")
    host.fail("microvm-spectrum list | grep appvm-late")

    with subtest("the partition appears"):
        host.succeed("mount /dev/vdb /media/late")
        host.wait_until_succeeds("microvm-spectrum list | grep appvm-late", timeout=120)

    with subtest("it autostarts nothing"):
        host.fail("systemctl is-active --quiet microvm@appvm-late.service")

    with subtest("its VM runs"):
        host.succeed("microvm-spectrum start appvm-late", timeout=600)
        host.wait_until_succeeds("journalctl -u microvm@appvm-late | grep 'guest: ready'", timeout=300)

    with subtest("what the host had already is not replaced"):
        host.succeed("microvm-spectrum list --all | grep netvm | grep shadowed")

    with subtest("it goes"):
        host.succeed("microvm-spectrum stop appvm-late", timeout=300)
        host.succeed("umount /media/late")
        host.wait_until_succeeds("microvm-spectrum list | grep appvm-late | grep unavailable", timeout=120)
  '';
}
