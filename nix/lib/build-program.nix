# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The program that a build executes: of the package that the host gets, unless that is
# for another system.
{ pkgs, package }:
let
  inherit (pkgs.stdenv) buildPlatform hostPlatform;
  executable =
    if buildPlatform.canExecute hostPlatform then
      package
    else
      pkgs.buildPackages.callPackage ../package.nix { };
in
"${executable}/bin/microvm-spectrum"
