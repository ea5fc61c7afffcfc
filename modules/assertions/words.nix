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
  ofVm = name: option: "${vm name}.${option}";
  linkId = client: provider: "${vm client}.linkIds.${quoted provider}";
  # Of a VM of a source.
  settings = key: option "settings.vm.${quoted key}";
  ofSettings = key: setting: "${settings key}.${setting}";
  linkIdInSettings = client: provider: "${settings client}.links.${quoted provider}";
  tool = name: option "settings.tools.${quoted name}";

  all = lib.concatStringsSep " and ";
  # All that `f` says of the attributes of a set.
  each = f: set: lib.concatLists (lib.mapAttrsToList f set);
  unless = holds: message: lib.optional (!holds) message;

  inherit (import ../../nix/lib/names.nix) isName;
  nameRule = "a name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin with . or -; rename it";
  isAbsolute = path: builtins.match "/.*" path != null;
}
