# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What no single option shows: each mistake with its place and its remedy, and
# all of them at once.
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
      "${enable} and microvm.host.enable, microvm.nix's own host module, define the same units: set microvm.host.enable = false, and all packages run under those of microvm-spectrum, or ${enable} = false, and install microvm-spectrum's packages by microvm.vms";
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
        ++ problemsOf ./assertions/sources.nix
        ++ cloudHypervisor
        ++ problemsOf ./assertions/vms.nix
        ++ problemsOf ./assertions/network.nix
        ++ problemsOf ./assertions/settings.nix
        ++ problemsOf ./assertions/twice.nix
      )
  );
}
