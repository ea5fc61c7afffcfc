# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What microvm.nix's own host module has in common with this one.
{ config, lib, ... }:
{
  options.microvm.host.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
  };
  config = lib.mkIf config.microvm.host.enable {
    users.users.microvm = {
      isSystemUser = true;
      group = "kvm";
    };
    systemd.targets.microvms.wantedBy = [ "multi-user.target" ];
    systemd.services."microvm@".serviceConfig.ExecStart = "microvm.nix";
  };
}
