# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Stands in for Nixpkgs where there is none: its shape, and just what the project's
# flake takes from it. The packages wrap the machine's own tools, whose places the
# tests write into machine.json; nothing of it is of use elsewhere.
{
  description = "A stand-in for Nixpkgs";

  outputs =
    { self }:
    let
      lib = import ./lib;
    in
    {
      lib = lib // {
        nixosSystem = import ./nixos-system.nix { inherit self lib; };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
        system: import ./. { inherit system; }
      );
    };
}
