# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is known of a VM's links before anything is built.
{ lib }:
{
  vmDir,
  runner,
  providers,
  linkIds,
  ...
}:
let
  # A directory that has to be built first is not read: evaluation waits for no build.
  built =
    lib.isDerivation vmDir
    || lib.any (context: context ? outputs) (lib.attrValues (builtins.getContext (toString vmDir)));
  directory = vmDir + "/providers/net";
in
if runner != null then
  {
    providers = runner.providers or null;
    linkIds = runner.linkIds or { };
  }
else
  {
    providers =
      if providers != null then
        providers
      else if vmDir == null || built then
        null
      else if builtins.pathExists directory then
        lib.attrNames (builtins.readDir directory)
      else
        [ ];
    inherit linkIds;
  }
