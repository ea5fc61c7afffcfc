# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The library's evaluation tests, as a check of the flake. That errors have the
# right message is for checks/nix/library.rs to see: Nix can only tell that there
# is one.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  arguments = {
    inherit pkgs;
    library = self.lib;
  };
  cases = import ./cases.nix arguments;
  errors = import ./errors.nix arguments;
  wrong = lib.filterAttrs (_: case: case.actual != case.expected) cases;
  silent = lib.filterAttrs (
    _: error: (builtins.tryEval (builtins.deepSeq error.value null)).success
  ) errors;
  failed = builtins.attrNames wrong ++ builtins.attrNames silent;
in
if failed == [ ] then
  pkgs.runCommand "microvm-spectrum-library-tests" { } ''
    echo "${toString (builtins.length (builtins.attrNames (cases // errors)))} tests" | tee $out
  ''
else
  throw "tests of the library have failed: ${toString failed}"
