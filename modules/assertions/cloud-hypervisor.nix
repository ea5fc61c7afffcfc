# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Whether VMs of sources run under this host's Cloud Hypervisor. Of VMs of `vms`,
# mkRunner tells it.
{
  cfg,
  lib,
  pkgs,
  words,
}:
let
  inherit (cfg) settings;
  inherit (import ../../nix/lib/cloud-hypervisor.nix) isTooOld problem;
  package = pkgs.cloud-hypervisor;
  isUsed =
    cfg.sources != [ ]
    && settings.tools.cloud-hypervisor == lib.getExe' package "cloud-hypervisor"
    && lib.any (hypervisor: hypervisor == "cloud-hypervisor") (
      [
        (if settings.defaults.hypervisor == null then "cloud-hypervisor" else settings.defaults.hypervisor)
      ]
      ++ map (vm: vm.hypervisor) (lib.attrValues settings.vm)
    );
in
words.unless (!(isUsed && isTooOld package))
  "${words.option "sources"}: ${problem package "${words.option "settings.tools"}.cloud-hypervisor"}, or ${words.option "settings.defaults.hypervisor"} = \"qemu\""
