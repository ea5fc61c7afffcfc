# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Formats of settings: the type of their values, and their files.
{ lib, writeText }:
{
  toml = { }: {
    type =
      let
        value =
          lib.types.oneOf [
            lib.types.bool
            lib.types.int
            lib.types.str
            (lib.types.attrsOf value)
            (lib.types.listOf value)
          ]
          // {
            description = "TOML value";
          };
      in
      value;
    generate = name: value: writeText name (import ../toml.nix { inherit lib; } value);
  };
}
