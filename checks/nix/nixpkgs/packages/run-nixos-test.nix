# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# There is no NixOS here: a test is evaluated as far as it goes, its script and
# what its machines say to options that are declared, and then skipped.
{
  lib,
  pkgs,
  refuses,
}:
file:
let
  module = if builtins.isPath file then import file else file;
  test = refuses.orThrow (given.name or "a test") (refuses.test given) given;
  given =
    if builtins.isFunction module then
      module {
        inherit lib pkgs;
        hostPkgs = pkgs;
      }
    else
      module;
  # What tests say to NixOS itself is taken as it is written; what the module defines
  # of it has its types.
  machine =
    { lib, ... }:
    {
      imports = [ ../nixos-stub.nix ];
      options =
        lib.genAttrs
          [
            "nix"
            "specialisation"
            "virtualisation"
          ]
          (
            _:
            lib.mkOption {
              type = lib.types.attrsOf lib.types.raw;
              default = { };
            }
          )
        // {
          networking.useDHCP = lib.mkOption { type = lib.types.bool; };
        };
    };
  evaluate =
    modules:
    (lib.evalModules {
      modules = modules ++ [
        machine
        { _module.args.pkgs = pkgs; }
      ];
    }).config;
  nodes = builtins.mapAttrs (_: node: evaluate [ node ]) test.nodes;
  specialisations = lib.concatMap (
    name:
    map (
      other:
      evaluate [
        test.nodes.${name}
        other.configuration
      ]
    ) (builtins.attrValues nodes.${name}.specialisation)
  ) (builtins.attrNames nodes);
  failed = lib.concatMap (
    node: map (assertion: assertion.message) (lib.filter (a: !a.assertion) node.assertions)
  ) (builtins.attrValues nodes ++ specialisations);
  # The whole configuration of a machine, evaluated.
  told = map (node: {
    units = builtins.mapAttrs (_: service: service.serviceConfig) node.systemd.services;
    files = builtins.mapAttrs (_: file: file.source) node.environment.etc;
  }) (builtins.attrValues nodes ++ specialisations);
  script =
    if builtins.isFunction test.testScript then test.testScript { inherit nodes; } else test.testScript;
in
if failed != [ ] then
  throw "test ${test.name}: ${lib.concatStringsSep "; " failed}"
else
  pkgs.runCommand "vm-test-run-${test.name}"
    {
      inherit script;
      told = builtins.toJSON told;
      passAsFile = [
        "script"
        "told"
      ];
      passthru = {
        inherit nodes;
        skipped = "NixOS VM test ${test.name}";
      };
    }
    ''
      test -s "$scriptPath"
      echo "skipped: NixOS VM test ${test.name}: there is no NixOS here" | tee $out
    ''
