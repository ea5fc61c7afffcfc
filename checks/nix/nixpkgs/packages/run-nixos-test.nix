# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# There is no NixOS here: a test is evaluated as far as it goes, its script and
# what its machines say to options that are declared, and then skipped.
{ lib, pkgs }:
file:
let
  module = if builtins.isPath file then import file else file;
  test =
    if builtins.isFunction module then
      module {
        inherit lib pkgs;
        hostPkgs = pkgs;
      }
    else
      module;
  evaluated = builtins.mapAttrs (
    _: node:
    lib.evalModules {
      specialArgs = { inherit pkgs; };
      modules = [
        node
        { _module.check = false; }
      ];
    }
  ) test.nodes;
  nodes = builtins.mapAttrs (_: node: node.config) evaluated;
  script =
    if builtins.isFunction test.testScript then test.testScript { inherit nodes; } else test.testScript;
  # What a machine says to this project's own options.
  settings = builtins.mapAttrs (_: node: node.services.microvm-spectrum.vms or { }) nodes;
in
builtins.deepSeq (builtins.mapAttrs (_: builtins.attrNames) settings) (
  pkgs.runCommand "vm-test-run-${test.name}"
    {
      inherit script;
      passAsFile = [ "script" ];
      passthru = {
        inherit nodes;
        skipped = "NixOS VM test ${test.name}";
      };
    }
    ''
      test -s "$scriptPath"
      echo "skipped: NixOS VM test ${test.name}: there is no NixOS here" | tee $out
    ''
)
