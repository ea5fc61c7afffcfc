# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the module takes from a package set, without anything that could be built.
{ lib }:
let
  derivation = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/${builtins.substring 0 32 (builtins.hashString "sha256" name)}-${name}";
  };
  packages = lib.genAttrs [
    "cloud-hypervisor"
    "iproute2"
    "microvm-spectrum"
    "nftables"
    "qemu_kvm"
    "virtiofsd"
  ] derivation;
in
packages
// {
  inherit derivation;
  stdenv.hostPlatform.qemuArch = "x86_64";
  formats.toml = _: {
    type =
      let
        value =
          lib.types.oneOf [
            lib.types.bool
            lib.types.int
            lib.types.str
            (lib.types.attrsOf value)
            (lib.types.listOf value)
          ]
          // {
            description = "TOML value";
          };
      in
      value;
    generate =
      name: value: derivation name // { text = import ../nixpkgs/toml.nix { inherit lib; } value; };
  };
}
