# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the messages have in common.
{ lib }:
let
  quoted = lib.strings.escapeNixIdentifier;
in
rec {
  # Options, as they have to be written.
  option = name: "services.microvm-spectrum.${name}";
  vm = name: option "vms.${quoted name}";
  devices = name: "${vm name}.devices";
  linkId = client: provider: "${vm client}.linkIds.${quoted provider}";
  # Of a VM of a source.
  settings = key: option "settings.vm.${quoted key}";
  devicesInSettings = key: "${settings key}.devices";
  linkIdInSettings = client: provider: "${settings client}.links.${quoted provider}";

  all = lib.concatStringsSep " and ";
  # All that `f` says of the attributes of a set.
  each = f: set: lib.concatLists (lib.mapAttrsToList f set);
  unless = holds: message: lib.optional (!holds) message;
}
