# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{
  mkRunner = import ./mk-runner.nix;
  mkRunners = import ./mk-runners.nix;
  # What is known of a link by its names alone; for whoever configures a host.
  linkIds = {
    inherit (import ./link-ids.nix) derive link;
  };
}
