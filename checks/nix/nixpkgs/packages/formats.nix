# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Formats of settings: how their files are made.
{ lib, writeText }:
{
  toml =
    { }:
    {
      generate = name: value: writeText name (import ../toml.nix { inherit lib; } value);
    };
}
