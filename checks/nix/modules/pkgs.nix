# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the module takes from a package set, of which nothing is ever built.
{ lib }:
let
  # Like every package, with a context that says that it has to be built.
  derivation =
    name:
    builtins.derivation {
      inherit name;
      system = "x86_64-linux";
      builder = "/bin/sh";
    };
  packages = lib.genAttrs [
    "cloud-hypervisor"
    "coreutils"
    "findutils"
    "gnugrep"
    "gnused"
    "iproute2"
    "microvm-spectrum"
    "nftables"
    "ocf-resource-agents"
    "passt"
    "qemu_kvm"
    "systemd"
    "virtiofsd"
  ] derivation;
in
packages
// {
  inherit derivation;
  pacemaker = derivation "pacemaker" // {
    override = arguments: derivation "pacemaker" // { inherit arguments; };
  };
  stdenv = {
    buildPlatform.canExecute = _: true;
    hostPlatform.qemuArch = "x86_64";
  };
  runCommand =
    name: arguments: script:
    derivation name // arguments // { inherit script; };
  writeText = name: text: derivation name // { inherit text; };
  writeTextDir = path: text: derivation (baseNameOf path) // { inherit path text; };
  formats = import ../nixpkgs/packages/formats.nix {
    inherit lib;
    writeText = name: text: derivation name // { inherit text; };
  };
}
