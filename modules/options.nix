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
  table = options: types.submodule { inherit options; };
  settingsOf = import ./settings.nix { inherit lib; };
  buildProgram = import ../nix/lib/build-program.nix {
    inherit pkgs;
    inherit (cfg) package;
  };
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
      type = table {
        defaults = mkOption {
          type = table (
            removeAttrs settingsOf [
              "uid"
              "links"
              "devices"
              "shares"
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
          type = types.attrsOf (table (settingsOf // { inherit runner; }));
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
            type = types.ints.unsigned;
            default = 70000;
            example = 100000;
            description = "The first user id of the range from which VMs get theirs.";
          };
          last = mkOption {
            type = types.ints.unsigned;
            default = 89999;
            example = 109999;
            description = "The last user id of that range.";
          };
        };
        nix-store = mkOption {
          type = types.bool;
          default = false;
          example = true;
          description = "Whether the packages of VMs of sources go into the host's Nix store.";
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
        The content of `/etc/microvm-spectrum/config.toml`, which microvm-spectrum-config(5) describes. The program
        checks it when the host's configuration is built.
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

  # The program refuses it here and now, and not on the host after the switch.
  config.services.microvm-spectrum.configFile =
    pkgs.runCommand "microvm-spectrum.toml"
      {
        unchecked = toml.generate "config.toml" (given (cfg.settings // { source = cfg.sources; }));
      }
      ''
        if ! ${buildProgram} check-config $unchecked; then
          echo "These are keys of services.microvm-spectrum.settings; source is services.microvm-spectrum.sources." >&2
          exit 1
        fi
        cp $unchecked $out
      '';
}
