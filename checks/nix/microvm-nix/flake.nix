# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  description = "microvm-spectrum's packages under microvm.nix's own host module and command";

  # A flake of its own, so that users of the project's flake do not get microvm.nix.
  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm-spectrum.url = "path:../../..";
    microvm-spectrum.inputs.nixpkgs.follows = "nixpkgs";
    microvm.url = "github:microvm-nix/microvm.nix";
    microvm.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    {
      nixpkgs,
      microvm-spectrum,
      microvm,
      ...
    }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      checks = nixpkgs.lib.genAttrs systems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
          test = file: pkgs.testers.runNixOSTest (import file { inherit microvm microvm-spectrum; });
        in
        {
          declarative = test ./declarative.nix;
          imperative = test ./imperative.nix;
        }
      );
    };
}
