# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  description = "Spectrum VMs on NixOS";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm-spectrum.url = "github:microvm-spectrum/microvm-spectrum";
    microvm-spectrum.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    {
      nixpkgs,
      microvm-spectrum,
      ...
    }:
    let
      system = "x86_64-linux";
      # One directory in ./vms for each VM: vmlinux, blk/*.img, providers/net/…, shared-dirs/…
      vms = microvm-spectrum.lib.mkRunners {
        pkgs = nixpkgs.legacyPackages.${system};
        dir = ./vms;
        # What Spectrum sees as /ext, the user partition, is on the host:
        defaults.allow."/ext" = "/srv/spectrum";
      };
    in
    {
      # nix build .#vm-<name>
      packages.${system} = vms.packages;

      nixosConfigurations.host = nixpkgs.lib.nixosSystem {
        inherit system;
        modules = [
          microvm-spectrum.nixosModules.default
          {
            services.microvm-spectrum = {
              enable = true;
              vms = builtins.mapAttrs (_: runner: { inherit runner; }) vms.runners;
            };
          }
        ];
      };
    };
}
