# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What a configuration in the documentation comes to.
{ configuration }:
let
  lib = import ../nixpkgs/lib;
  inherit ((import ./evaluate.nix { inherit lib; } [ configuration ])) config;
  file = builtins.fromTOML (
    builtins.unsafeDiscardStringContext config.services.microvm-spectrum.configFile.unchecked.text
  );
in
{
  messages = map (assertion: assertion.message) config.assertions ++ config.warnings;
  vms = lib.attrNames file.vm;
  sources = map (source: source.name) (file.source or [ ]);
  hosts = map (node: node.name) config.services.corosync.nodelist;
}
