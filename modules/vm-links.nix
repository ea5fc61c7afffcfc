# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is known of a VM's links before anything is built.
{
  vmDir,
  runner,
  providers,
  linkIds,
  ...
}:
let
  vmDirectory = import ../nix/lib/vm-directory.nix;
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
      else if vmDir == null || vmDirectory.isBuilt vmDir then
        # Evaluation waits for no build; what mkVmDirectory made tells them.
        vmDir.providers or null
      else if !vmDirectory.exists vmDir then
        # What makes the package says so.
        [ ]
      else
        (vmDirectory.read vmDir).providers;
    inherit linkIds;
  }
