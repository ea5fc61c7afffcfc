# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Attribute sets.
{ }:
let
  inherit (builtins)
    concatMap
    filter
    head
    map
    tail
    ;
in
rec {
  inherit (builtins)
    attrNames
    attrValues
    isAttrs
    listToAttrs
    mapAttrs
    removeAttrs
    zipAttrsWith
    ;
  nameValuePair = name: value: { inherit name value; };
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs =
    wanted: set: removeAttrs set (filter (name: !wanted name set.${name}) (attrNames set));
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  optionalAttrs = condition: set: if condition then set else { };
  setAttrByPath =
    path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
  collect =
    wanted: set:
    if wanted set then
      [ set ]
    else if isAttrs set then
      concatMap (collect wanted) (builtins.attrValues set)
    else
      [ ];
  isDerivation = value: value.type or null == "derivation";
  getOutput = output: package: package.${output} or package.out or package;
  getBin = getOutput "bin";
}
