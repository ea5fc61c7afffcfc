# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The programs that VMs of sources run with: of this host's package set, each
# of which the administrator can replace.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.microvm-spectrum;
  inherit (cfg) settings;
  usesQemu = lib.any (vm: vm.hypervisor == "qemu") (
    [ settings.defaults ] ++ lib.attrValues settings.vm
  );
  qemu = "qemu-system-${pkgs.stdenv.hostPlatform.qemuArch}";
in
{
  services.microvm-spectrum.settings.tools = lib.mapAttrs (_: lib.mkDefault) (
    {
      microvm-spectrum = lib.getExe' cfg.package "microvm-spectrum";
      ip = lib.getExe' pkgs.iproute2 "ip";
      nft = lib.getExe' pkgs.nftables "nft";
      passt = lib.getExe' pkgs.passt "passt";
      virtiofsd = lib.getExe' pkgs.virtiofsd "virtiofsd";
      cloud-hypervisor = lib.getExe' pkgs.cloud-hypervisor "cloud-hypervisor";
    }
    # A big one, for those who use it.
    // lib.optionalAttrs usesQemu {
      ${qemu} = lib.getExe' pkgs.qemu_kvm qemu;
    }
  );
}
