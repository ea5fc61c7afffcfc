# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# As far as it goes without NixOS: the modules are evaluated, with just those of
# NixOS' options that the project's module sets, and nothing comes of it.
{ self, lib }:
{
  system,
  modules,
  specialArgs ? { },
}:
let
  pkgs = self.legacyPackages.${system};
in
lib.evalModules {
  specialArgs = {
    inherit pkgs;
  }
  // specialArgs;
  modules = modules ++ [ ./nixos-stub.nix ];
}
