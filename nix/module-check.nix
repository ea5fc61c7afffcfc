# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The module's evaluation tests, with the lib of this Nixpkgs.
{ pkgs }:
let
  inherit (import ../checks/nix/modules { libPath = toString (pkgs.path + "/lib"); }) tests;
  inherit (pkgs) lib;
  failed = builtins.attrNames (lib.filterAttrs (_: test: test.actual != test.expected) tests);
in
if failed == [ ] then
  pkgs.runCommand "microvm-spectrum-module-tests" { } ''
    echo "${toString (builtins.length (builtins.attrNames tests))} tests" | tee $out
  ''
else
  throw "tests of the module have failed: ${toString failed}"
