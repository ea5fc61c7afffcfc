# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The reference of options, in Markdown.
{ lib }:
options:
let
  text = value: lib.removeSuffix "\n" (if lib.isString value then value else value.text);
  fenced = value: "\n```nix\n${text value}\n```\n";
  shown =
    value:
    if value._type or "" == "literalMD" then
      " ${text value}\n"
    else if lib.hasInfix "\n" (text value) then
      "\n${fenced value}"
    else
      " `${text value}`\n";
  option =
    option:
    ''
      ## `${option.name}`

      ${text option.description}

      * Type: ${option.type}
    ''
    + lib.optionalString option.readOnly "* Read-only\n"
    + lib.optionalString (option ? default) "* Default:${shown option.default}"
    + lib.optionalString (option ? example) "* Example:${shown option.example}";
in
''
  <!--
  SPDX-License-Identifier: EUPL-1.2
  SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
  -->

  # Options of the NixOS module

  Generated from [modules/](../modules) ([how to use it](nixos.md)).

''
+ lib.concatStringsSep "\n" (
  map option (lib.sort (a: b: a.name < b.name) (import ./documented.nix { inherit lib; } options))
)
