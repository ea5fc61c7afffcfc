# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The package set. What has no entry here, the flake does not take from Nixpkgs.
{
  lib,
  machine,
  system,
}:
let
  # Calls a function with those packages that it names; the result can be overridden.
  callPackageWith =
    packages: file: arguments:
    let
      function = if builtins.isFunction file then file else import file;
      given = builtins.intersectAttrs (builtins.functionArgs function) packages // arguments;
      result = function given;
    in
    if builtins.isAttrs result then
      result // { override = more: callPackageWith packages function (arguments // more); }
    else
      result;

  build = import ./build.nix { inherit lib machine system; };
  tools = import ./tools.nix { inherit machine build; };

  pkgs = tools // {
    inherit lib;
    path = ./..;
    # This machine builds for itself.
    buildPackages = pkgs;
    inherit (build)
      runCommand
      stdenv
      writeText
      writeTextDir
      ;
    callPackage = callPackageWith pkgs;
    closureInfo = import ./closure-info.nix { inherit (build) runCommand; };
    formats = import ./formats.nix {
      inherit lib;
      inherit (build) writeText;
    };
    makeFontsConf =
      { fontDirectories }: build.runCommand "fonts.conf" { } "echo ${toString fontDirectories} >$out";
    linux_6_12 = import ./linux.nix { inherit machine build; };
    rustPlatform = import ./rust-platform.nix {
      inherit
        lib
        machine
        build
        tools
        ;
    };
    testers.runNixOSTest = import ./run-nixos-test.nix {
      inherit lib pkgs;
      inherit (build) refuses;
    };
    writeShellApplication = import ./write-shell-application.nix { inherit build; };
    mkShell = { packages }: build.runCommand "shell" { nativeBuildInputs = packages; } "mkdir $out";
  };
in
pkgs
