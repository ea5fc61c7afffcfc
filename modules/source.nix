# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# One source of VMs.
{ lib, ... }:
let
  inherit (lib) mkOption types;
in
{
  options = {
    kind = mkOption {
      type = types.enum [
        "builtin"
        "user-partition"
      ];
      example = "user-partition";
      description = "`builtin`: a directory of VM directories. `user-partition`: has VM directories in its `svc/data`.";
    };
    name = mkOption {
      type = types.str;
      example = "user";
      description = "Its name, with the characters of VM names. `configuration` is the name under which VMs of `vms` are listed.";
    };
    path = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/srv/P";
      description = "Its absolute path, outside of `/tmp` and `/var/tmp`.";
    };
    partuuid = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11";
      description = "The UUID of a partition in the partition table, instead of `path`: it is mounted when it appears.";
    };
    allow = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/usr/img=/srv/spectrum/img" ];
      description = "Where links of its VM directories may lead besides the source itself: `PREFIX`, or `PREFIX=HOSTDIR`.";
    };
    autostart = mkOption {
      type = types.nullOr types.bool;
      default = null;
      example = true;
      description = "Whether its VMs may start with the host; when null, those of a `builtin` source may.";
    };
    cluster = mkOption {
      type = types.nullOr types.bool;
      default = null;
      example = true;
      description = "Whether the cluster decides which hosts run its VMs; when null, `settings.defaults` says it.";
    };
    wayland-user = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "alice";
      description = "The user whose session shows the windows of its VMs, by name.";
    };
    max-vms = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 50;
      description = "How many of its VMs can run; when null, 10000 of a `builtin` source and 1000 of a `user-partition`.";
    };
  };
}
