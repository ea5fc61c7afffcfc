# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The options of NixOS that the module defines, with NixOS' own types.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  list =
    type:
    mkOption {
      type = types.listOf type;
      default = [ ];
    };
  sets =
    options:
    mkOption {
      type = types.attrsOf (types.submodule { inherit options; });
      default = { };
    };
  unit = {
    enable = mkOption {
      type = types.bool;
      default = true;
    };
    wants = list types.str;
    after = list types.str;
    wantedBy = list (
      types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)"
    );
    overrideStrategy = mkOption {
      type = types.enum [
        "asDropinIfExists"
        "asDropin"
      ];
      default = "asDropinIfExists";
    };
  };
in
{
  options = {
    assertions = list types.unspecified;
    warnings = list types.str;
    boot.kernelModules = list types.str;
    networking.dhcpcd.denyInterfaces = list types.str;
    environment.systemPackages = list types.package;
    environment.etc = mkOption {
      type = types.attrsOf (
        types.submodule (
          { config, name, ... }:
          {
            options = {
              enable = mkOption {
                type = types.bool;
                default = true;
              };
              text = mkOption {
                type = types.nullOr types.str;
                default = null;
              };
              source = mkOption { type = types.path; };
            };
            config = lib.mkIf (config.text != null) {
              source = lib.mkDefault (pkgs.writeText (baseNameOf name) config.text);
            };
          }
        )
      );
      default = { };
    };
    environment.pathsToLink = list types.str;
    services.corosync = {
      enable = mkOption {
        type = types.bool;
        default = false;
      };
      clusterName = mkOption {
        type = types.str;
        default = "nixcluster";
      };
      nodelist = mkOption {
        type = types.listOf (
          types.submodule {
            options = {
              nodeid = mkOption { type = types.int; };
              name = mkOption { type = types.str; };
              ring_addrs = mkOption { type = types.listOf types.str; };
            };
          }
        );
        default = [ ];
      };
    };
    services.pacemaker = {
      enable = mkOption {
        type = types.bool;
        default = false;
      };
      package = mkOption {
        type = types.package;
        default = pkgs.pacemaker;
      };
    };
    services.nscd.enable = mkOption {
      type = types.bool;
      default = true;
    };
    services.udev.packages = list types.path;
    systemd = {
      package = mkOption {
        type = types.package;
        default = pkgs.systemd or (pkgs.runCommand "systemd" { } "mkdir $out");
      };
      packages = list types.package;
      generators = mkOption {
        type = types.attrsOf types.path;
        default = { };
      };
      tmpfiles.packages = list types.package;
      paths = sets unit;
      targets = sets unit;
      user.services = sets unit;
      services = sets (
        unit
        // {
          path = list (
            types.oneOf [
              types.package
              types.str
            ]
          );
          restartIfChanged = mkOption {
            type = types.bool;
            default = true;
          };
          restartTriggers = list types.unspecified;
          serviceConfig = mkOption {
            type = types.attrsOf types.unspecified;
            default = { };
          };
        }
      );
    };
    users.users = sets {
      description = mkOption {
        type = types.str;
        default = "";
      };
      isSystemUser = mkOption {
        type = types.bool;
        default = false;
      };
      group = mkOption {
        type = types.str;
        default = "";
      };
      extraGroups = list types.str;
    };
    users.groups = sets {
      members = list types.str;
    };
  };
}
