# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A value as TOML.
{ lib }:
let
  inherit (lib) concatMapStrings concatStrings mapAttrsToList;
  isTable = value: lib.isAttrs value && !lib.isDerivation value;
  isTables = value: lib.isList value && value != [ ] && lib.all isTable value;
  key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;
  inline =
    value:
    if lib.isList value then
      "[${lib.concatMapStringsSep ", " inline value}]"
    else if isTable value then
      "{ ${
        lib.concatStringsSep ", " (mapAttrsToList (name: item: "${key name} = ${inline item}") value)
      } }"
    else if value == null then
      throw "TOML has no null"
    else
      builtins.toJSON value;
  # A table with its header, and the tables beneath it.
  table =
    path: header: value:
    let
      tables = lib.filterAttrs (_: isTable) value;
      arrays = lib.filterAttrs (_: isTables) value;
      own = removeAttrs value (lib.attrNames (tables // arrays));
    in
    lib.optionalString (own != { } || tables == { } && arrays == { }) header
    + concatStrings (mapAttrsToList (name: item: "${key name} = ${inline item}\n") own)
    + concatStrings (
      mapAttrsToList (
        name: items: concatMapStrings (table "${path}${key name}." "\n[[${path}${key name}]]\n") items
      ) arrays
    )
    + concatStrings (
      mapAttrsToList (name: item: table "${path}${key name}." "\n[${path}${key name}]\n" item) tables
    );
in
value: lib.removePrefix "\n" (table "" "" value)
