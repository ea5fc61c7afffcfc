# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is of no other subject.
{ }:
rec {
  inherit (builtins)
    functionArgs
    isBool
    isFunction
    isInt
    isFloat
    ;
  # What `function` gives for `arguments`, and can be made again with others.
  makeOverridable =
    function: arguments:
    let
      result = function arguments;
      with' = f: if builtins.isFunction f then f arguments else f;
    in
    if builtins.isAttrs result then
      result // { override = more: makeOverridable function (arguments // with' more); }
    else
      result;
  id = value: value;
  boolToString = value: if value then "true" else "false";
  min = a: b: if a < b then a else b;
}
