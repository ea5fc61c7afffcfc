# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  description = "Runs Spectrum OS virtual machine directories as microvm.nix runner packages";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAllSystems = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      exampleVms =
        pkgs:
        import ./nix/example-vms.nix {
          inherit pkgs;
          inherit (self) lib;
        };
    in
    {
      lib = import ./nix/lib;

      overlays.default = import ./nix/overlay.nix;

      packages = forAllSystems (
        pkgs:
        let
          microvm-spectrum = pkgs.callPackage ./nix/package.nix { };
        in
        {
          inherit microvm-spectrum;
          default = microvm-spectrum;
        }
        // (exampleVms pkgs).packages
      );

      nixosModules = {
        default = self.nixosModules.host;
        # The file itself, so that NixOS sees one module however often it is imported.
        host = ./modules/host.nix;
      };

      # The example VMs, in the shape that microvm.nix's host module and its command take.
      nixosConfigurations = (exampleVms nixpkgs.legacyPackages.x86_64-linux).nixosConfigurations;

      checks = forAllSystems (pkgs: import ./nix/checks.nix { inherit pkgs self; });

      apps = forAllSystems (pkgs: {
        demo = {
          type = "app";
          program = lib.getExe (
            pkgs.callPackage ./nix/demo.nix { inherit ((exampleVms pkgs).runners) appvm-hello; }
          );
          meta.description = "Boots an example VM with a shared directory and attaches to its console";
        };
      });

      devShells = forAllSystems (pkgs: {
        default = pkgs.callPackage ./nix/dev-shell.nix { };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);

      templates.default = {
        path = ./templates/default;
        description = "VM directories as runner packages, and a NixOS host that runs them";
      };
    };
}
