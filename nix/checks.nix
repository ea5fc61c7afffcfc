# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What `nix flake check` builds.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) microvm-spectrum;

  # The tests of machines, which take NixOS and KVM.
  vmTests = lib.mapAttrs' (name: file: {
    name = "vm-test-${name}";
    value = pkgs.testers.runNixOSTest (import file { inherit self; });
  }) (import ../checks/nix/vm-tests);
in
{
  # With the unit tests and those of whole packages.
  crate = microvm-spectrum;

  lints = microvm-spectrum.overrideAttrs (old: {
    pname = "${old.pname}-lints";
    nativeBuildInputs = (old.nativeBuildInputs or [ ]) ++ [ pkgs.clippy ];
    buildPhase = ''
      cargo clippy --all-targets --offline --locked -- --deny warnings
    '';
    doCheck = false;
    installPhase = "mkdir $out";
  });

  format =
    pkgs.runCommand "microvm-spectrum-format"
      {
        nativeBuildInputs = [
          pkgs.cargo
          pkgs.deadnix
          pkgs.nixfmt
          pkgs.rustfmt
        ];
      }
      ''
        cd ${self}
        cargo fmt --check
        # deadnix passes over a file that it cannot read; nixfmt does not.
        find . -name '*.nix' -print0 | xargs -0 nixfmt --check
        deadnix --fail .
        mkdir $out
      '';

  library = import ../checks/nix/library { inherit pkgs self; };

  module = import ./module-check.nix { inherit pkgs; };

  golden = import ../checks/nix/golden { inherit pkgs self; };
}
// vmTests
