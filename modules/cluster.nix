# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A host of a cluster: what its VMs, Corosync and Pacemaker need of each other. Nodes,
# addresses and fencing are the administrator's own (docs/cluster.md).
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault;
  cfg = config.services.microvm-spectrum;
  # By way of the running system, so that Pacemaker is not restarted, which would move all
  # VMs, whenever the program is another.
  agents = "lib/ocf/resource.d/microvm-spectrum";
  withAgent = pkgs.runCommand "ocf-resource-agents-with-microvm-spectrum" { } ''
    mkdir -p $out/usr/lib
    cp --recursive --symbolic-link --no-preserve=mode ${pkgs.ocf-resource-agents}/usr/lib/ocf $out/usr/lib/ocf
    ln -s /run/current-system/sw/${agents} $out/usr/lib/ocf/resource.d/microvm-spectrum
  '';
in
{
  options.services.microvm-spectrum.cluster.enable = lib.mkEnableOption ''
    Corosync and Pacemaker with the agent for VMs, and `settings.defaults.cluster`. `services.corosync` takes the name
    and the nodes of the cluster
  '';

  config = lib.mkIf (cfg.enable && cfg.cluster.enable) {
    services.microvm-spectrum.settings.defaults.cluster = mkDefault true;
    services.corosync.enable = mkDefault true;
    services.pacemaker.enable = mkDefault true;
    services.pacemaker.package = mkDefault (
      pkgs.pacemaker.override { ocf-resource-agents = withAgent; }
    );
    environment.pathsToLink = [ "/${agents}" ];
    # Pacemaker asks at its start what runs here.
    systemd.services.pacemaker = {
      wants = [ "microvm-spectrum-sync.service" ];
      after = [ "microvm-spectrum-sync.service" ];
    };
  };
}
