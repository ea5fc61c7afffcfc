# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A NixOS host that runs Spectrum's VMs.
#
# Unit files, generator and the other fragments come from the package as they
# are, the same ones as on any other distribution. What is here is what NixOS
# does not take from a package: who wants a unit, and what a rebuild restarts.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.microvm-spectrum;
  # microvm.nix's own host module defines the same units in another way; which
  # of the two it is to be, only the administrator knows (./assertions.nix).
  beside = options ? microvm && config.microvm.host.enable or false;
  network = "systemd/network/10-microvm-spectrum.network";
in
{
  imports = [
    ./options.nix
    ./vms.nix
    ./tools.nix
    ./cluster.nix
    ./assertions.nix
  ];

  config = lib.mkIf (cfg.enable && !beside) {
    environment.systemPackages = [ cfg.package ];
    environment.etc."microvm-spectrum/config.toml".source = cfg.configFile;
    environment.etc.${network}.source = "${cfg.package}/lib/${network}";
    # Brings the generator, too: an entry in systemd.generators would be a second
    # link of the same name, with which NixOS cannot build its directory.
    systemd.packages = [
      cfg.package
    ]
    ++ import ./unit-templates.nix { inherit config lib pkgs; };
    systemd.tmpfiles.packages = [ cfg.package ];
    services.udev.packages = [ cfg.package ];

    # What sysusers.d says on other distributions.
    users.users.microvm = {
      description = "MicroVMs without a user id of their own";
      isSystemUser = true;
      group = "microvm";
      extraGroups = [ "kvm" ];
    };
    users.groups.microvm = { };
    users.groups.kvm = { };

    boot.kernelModules = [
      "tun"
      "vhost_net"
    ]
    ++ lib.optional cfg.passthrough "vfio-pci";

    # The rest of [Install], which systemd.packages ignores.
    systemd.targets.microvms.wantedBy = [ "multi-user.target" ];
    systemd.services.microvm-spectrum-sync = {
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ cfg.configFile ];
    };
    systemd.user.services.microvm-spectrum-wayland.wantedBy = [ "graphical-session.target" ];
    systemd.services.microvm-spectrum-network.path = [ pkgs.iproute2 ];
    # Links of VMs that run outside of these units: a guest must not be the host's
    # DHCP server. The package's own files say that to networkd and NetworkManager.
    networking.dhcpcd.denyInterfaces = [
      "vmb-*"
      "vmc-*"
      "vmr-*"
    ];

    warnings = lib.optional (!config.services.nscd.enable) ''
      services.microvm-spectrum: VMs run as users that nss-systemd knows, which programs reach through nscd: enable services.nscd.
    '';
  };
}
