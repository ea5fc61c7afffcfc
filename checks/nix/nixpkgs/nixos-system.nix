# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# As far as it goes without NixOS: the modules are evaluated, with just those of
# NixOS' options that the project's module and its template set. Nothing comes of
# it, except the errors of a host without root file system or boot loader.
{ self, lib }:
{
  system,
  modules,
  specialArgs ? { },
}:
let
  pkgs = self.legacyPackages.${system};
  inherit (lib) mkOption types;

  host =
    { config, ... }:
    let
      inherit (config.boot) loader;
      failed = map (assertion: assertion.message) (
        lib.filter (assertion: !assertion.assertion) config.assertions
      );
    in
    {
      imports = [ ./nixos-stub.nix ];
      options = {
        fileSystems = mkOption {
          type = types.attrsOf (
            types.submodule {
              options = lib.genAttrs [ "device" "fsType" ] (_: mkOption { type = types.str; });
            }
          );
          default = { };
        };
        boot.loader = {
          systemd-boot.enable = mkOption {
            type = types.bool;
            default = false;
          };
          grub.devices = mkOption {
            type = types.listOf types.str;
            default = [ ];
          };
        };
        system.stateVersion = mkOption { type = types.str; };
        system.build.toplevel = mkOption { type = types.package; };
      };
      config = {
        _module.args.pkgs = lib.mkDefault pkgs;
        assertions = [
          {
            assertion = config.fileSystems ? "/";
            message = "The ‘fileSystems’ option does not specify your root file system.";
          }
          {
            assertion = loader.systemd-boot.enable || loader.grub.devices != [ ];
            message = "You must set the option ‘boot.loader.grub.devices’ to make the system bootable.";
          }
        ];
        system.build.toplevel =
          if failed != [ ] then
            throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (message: "- ${message}") failed}"
          else
            builtins.deepSeq config.system.stateVersion (
              pkgs.writeText "nixos-system" (
                toString (
                  map toString config.systemd.packages
                  ++ map (file: file.source) (lib.attrValues config.environment.etc)
                )
              )
            );
      };
    };
in
lib.evalModules {
  inherit specialArgs;
  modules = modules ++ [ host ];
}
