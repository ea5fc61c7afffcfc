# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The options of the host as a whole, and the configuration file made of them.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.microvm-spectrum;
  toml = pkgs.formats.toml { };
  # What is not set is left out; TOML has no null.
  given =
    value:
    if lib.isList value then
      map given value
    else if lib.isAttrs value && !lib.isDerivation value then
      lib.filterAttrs (_: item: item != null && item != { } && item != [ ]) (
        lib.mapAttrs (_: given) value
      )
    else
      value;
  open =
    options:
    types.submodule {
      inherit options;
      freeformType = toml.type;
    };
  settingsOf = import ./settings.nix { inherit lib; };
  # Set by ./vms.nix; an option, so that the rest can be read without building a package.
  runner = mkOption {
    type = types.nullOr types.str;
    default = null;
    internal = true;
    description = "The package of a VM that is of no source.";
  };
in
{
  options.services.microvm-spectrum = {
    enable = lib.mkEnableOption "VMs in Spectrum's format, run by systemd";

    package = mkOption {
      type = types.package;
      default = pkgs.microvm-spectrum or (pkgs.callPackage ../nix/package.nix { });
      defaultText = lib.literalMD "`pkgs.microvm-spectrum`; where there is none, built with the host's `pkgs`";
      example = lib.literalExpression "microvm-spectrum.packages.\${system}.default";
      description = "The program, with its unit files and manual pages.";
    };

    sources = mkOption {
      type = types.listOf (types.submodule ./source.nix);
      default = [ ];
      example = [
        {
          kind = "builtin";
          name = "system";
          path = "/srv/vms";
        }
        {
          kind = "user-partition";
          name = "user";
          partuuid = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11";
          allow = [ "/usr/img=/srv/spectrum/img" ];
        }
      ];
      description = ''
        Where VM directories live. Of VMs with the same name, the VM of the first source runs: `builtin` sources come
        first, then the others in the order of this list.
      '';
    };

    settings = mkOption {
      type = open {
        defaults = mkOption {
          type = open (
            removeAttrs settingsOf [
              "uid"
              "links"
              "devices"
            ]
          );
          default = { };
          example = {
            hypervisor = "qemu";
            memory = 512;
          };
          description = "Settings of every VM that has no settings of its own.";
        };
        vm = mkOption {
          type = types.attrsOf (open (settingsOf // { inherit runner; }));
          default = { };
          example = {
            "user/appvm-hello" = {
              vcpus = 2;
              autostart = true;
              links.netvm = "a546";
            };
          };
          description = ''
            Settings of single VMs of sources, by `SOURCE/NAME`; `NAME` is enough where there is one source. VMs that
            this configuration builds are in `services.microvm-spectrum.vms`.
          '';
        };
        uids = {
          first = mkOption {
            type = types.ints.between 65536 4294901759;
            default = 70000;
            example = 100000;
            description = "The first user id of the range from which VMs get theirs.";
          };
          last = mkOption {
            type = types.ints.between 65536 4294901759;
            default = 89999;
            example = 109999;
            description = "The last user id of that range.";
          };
        };
        tools = mkOption {
          type = types.attrsOf types.str;
          default = { };
          example = lib.literalExpression "{ virtiofsd = lib.getExe pkgs.virtiofsd; }";
          description = ''
            Paths of programs, by name. VMs of sources run with these; a program without an entry comes from the host's
            package set. Packages in `services.microvm-spectrum.vms` bring their own programs.
          '';
        };
      };
      default = { };
      example = {
        defaults.hypervisor = "qemu";
        vm."user/appvm-hello".autostart = true;
      };
      description = ''
        The content of `/etc/microvm-spectrum/config.toml`. microvm-spectrum-config(5) describes every key, and keys
        without an option can be set, too.
      '';
    };

    configFile = mkOption {
      type = types.path;
      readOnly = true;
      defaultText = lib.literalMD "made of `services.microvm-spectrum.settings`";
      description = "The configuration file that the module writes.";
      example = lib.literalExpression "config.services.microvm-spectrum.configFile";
    };
  };

  config.services.microvm-spectrum = {
    settings.source = map given cfg.sources;
    configFile = toml.generate "microvm-spectrum.toml" (given cfg.settings);
  };
}
