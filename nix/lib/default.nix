# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  # VM directories, and what is in them.
  mkVmDirectory = import ../guest/vm-directory.nix;
  mkRootImage = import ../guest/root-image.nix;
  guestKernel = { pkgs }: pkgs.callPackage ../guest/kernel.nix { };
  # Runner packages of VM directories.
  mkRunner = import ./mk-runner.nix;
  mkRunners = import ./mk-runners.nix;
  # What the names of a link tell about it; for hosts that configure links themselves.
  linkIds = {
    inherit (import ./link-ids.nix) derive link;
  };
}
