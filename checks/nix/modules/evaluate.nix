# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A NixOS configuration with the module, as far as the module goes.
{ lib }:
let
  pkgs = import ./pkgs.nix { inherit lib; };
  # In the place of the library's mkRunner: a package that tells with what it was called.
  mkRunner =
    arguments: pkgs.derivation "microvm-spectrum-${arguments.name}" // { inherit arguments; };
in
modules:
lib.evalModules {
  modules = [
    { _module.args.pkgs = lib.mkDefault pkgs; }
    ./nixos-stub.nix
    ../../../modules/host.nix
    { services.microvm-spectrum.mkRunner = lib.mkDefault mkRunner; }
  ]
  ++ modules;
}
