# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What NixOS adds to the program's unit templates: drop-ins with a name of their own.
# systemd.services."microvm@" would make one that is named overrides.conf, and
# systemd.services."microvm@NAME" would make another of that name, which systemd reads
# in its place.
{
  config,
  lib,
  pkgs,
}:
let
  # What NixOS gives to the services that it defines itself.
  standard = [
    pkgs.coreutils
    pkgs.findutils
    pkgs.gnugrep
    pkgs.gnused
    config.systemd.package
  ];
  dropIn =
    template: programs:
    pkgs.writeTextDir "lib/systemd/system/${template}@.service.d/microvm-spectrum.conf" ''
      [Service]
      Environment="PATH=${lib.makeBinPath (programs ++ standard)}"
      # A new program or a new package of the host changes this unit, and is no reason
      # to restart a VM or to take away what it runs on.
      X-RestartIfChanged=false
    '';
in
lib.mapAttrsToList dropIn {
  microvm = [ ];
  microvm-set-booted = [ ];
  microvm-pci-devices = [ ];
  microvm-spectrum-resync = [ ];
  microvm-spectrum-rescan = [ ];
  # What packages of the older convention need, which do not name it themselves.
  microvm-tap-interfaces = [ pkgs.iproute2 ];
  microvm-uplink = [ ];
  microvm-virtiofsd = [ pkgs.virtiofsd ];
}
