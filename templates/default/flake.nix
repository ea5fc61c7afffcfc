# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  description = "Spectrum VMs on NixOS";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm-spectrum.url = "github:microvm-spectrum/microvm-spectrum";
    # One Nixpkgs for the host, the program and the VMs.
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
      pkgs = nixpkgs.legacyPackages.${system};
      vms = microvm-spectrum.lib.mkRunners {
        inherit pkgs;
        # A VM that Nix makes: kernel, root image and all.
        vms.hello.vmDir = microvm-spectrum.lib.mkVmDirectory {
          inherit pkgs;
          name = "hello";
        };
        # VM directories that you have already, in a folder beside this file:
        # dir = ./vms;
        defaults = {
          # Runs without KVM. Remove both lines on a machine that has it.
          hypervisor = "qemu";
          accel = "tcg";
          memory = 256;
        };
      };
    in
    {
      # nix build .#vm-hello && mkdir run && cd run && ../result/bin/microvm-run
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

            # Those of your machine: what nixos-generate-config has written.
            fileSystems."/".device = "/dev/disk/by-label/nixos";
            fileSystems."/".fsType = "ext4";
            boot.loader.systemd-boot.enable = true;
            system.stateVersion = "26.05";
          }
        ];
      };
    };
}
