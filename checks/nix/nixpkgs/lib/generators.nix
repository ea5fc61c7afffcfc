# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Values as text.
{ lib }:
let
  inherit (lib)
    concatMapStrings
    mapAttrsToList
    ;
  inherit (lib.strings) escapeNixIdentifier escapeNixString;
in
{
  # A value in Nix's own syntax, as documentation shows it.
  toPretty =
    _:
    let
      show =
        indent: value:
        let
          more = indent + "  ";
        in
        if builtins.isString value then
          escapeNixString value
        else if builtins.isPath value then
          toString value
        else if value == null then
          "null"
        else if builtins.isBool value then
          lib.boolToString value
        else if builtins.isInt value || builtins.isFloat value then
          toString value
        else if builtins.isFunction value then
          "<function>"
        else if builtins.isList value then
          if value == [ ] then
            "[ ]"
          else
            "[\n${concatMapStrings (item: "${more}${show more item}\n") value}${indent}]"
        else if lib.isDerivation value then
          "<derivation ${value.name}>"
        else if value == { } then
          "{ }"
        else
          "{\n${
            lib.concatStrings (
              mapAttrsToList (name: item: "${more}${escapeNixIdentifier name} = ${show more item};\n") value
            )
          }${indent}}";
    in
    show "";
}
