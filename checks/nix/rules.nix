# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the rules say that Nix has besides the program; ./rules.rs compares.
{ samples, lib }:
let
  input = builtins.fromJSON (builtins.readFile samples);
  names = import ../../nix/lib/names.nix;
  linkIds = import ../../nix/lib/link-ids.nix;
  cycles = import ../../nix/lib/cycles.nix;
  settings = import ../../modules/settings.nix {
    lib = import (if lib == "" then ./nixpkgs/lib else /. + lib);
  };
  of = type: type.nestedTypes.elemType.check;
in
{
  names = map names.isName input.names;
  linkIds = map (id: linkIds.check "id" id == [ ]) input.linkIds;
  linkIdsOfOptions = map (of settings.links.type) input.linkIds;
  normal = map linkIds.normal input.linkIds;
  derived = map (
    pair: linkIds.link "client" "provider" (linkIds.derive pair.client pair.provider)
  ) input.pairs;
  devices = map (of settings.devices.type) input.devices;
  ports = map (of settings.ports.type) input.ports;
  cycles = map cycles input.graphs;
  inherit (import ../../nix/lib/choices.nix) hypervisors accelerators;
}
