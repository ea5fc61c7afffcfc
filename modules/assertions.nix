# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What neither an option shows nor the configuration, which the program checks
# (./options.nix): each mistake with its place and its remedy, and all in one go.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.microvm-spectrum;
  words = import ./assertions/words.nix { inherit lib; };
  cloudHypervisor = import ./assertions/cloud-hypervisor.nix {
    inherit
      cfg
      lib
      pkgs
      words
      ;
  };
  problemsOf = subject: import subject { inherit cfg lib words; };
  enable = words.option "enable";
  besideMicrovmNix =
    lib.optional (options ? microvm && config.microvm.host.enable or false)
      "${enable} and microvm.host.enable, which is microvm.nix's own host module, define the same units: set microvm.host.enable = false to run all packages under the units of microvm-spectrum, or ${enable} = false to run them under those of microvm.nix";
in
{
  assertions = lib.optionals cfg.enable (
    map
      (message: {
        assertion = false;
        inherit message;
      })
      (
        besideMicrovmNix
        ++ cloudHypervisor
        ++ problemsOf ./assertions/vms.nix
        ++ problemsOf ./assertions/network.nix
        ++ problemsOf ./assertions/devices.nix
      )
  );
}
