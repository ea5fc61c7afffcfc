# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is of no other subject.
{ }:
{
  inherit (builtins)
    fromTOML
    functionArgs
    isAttrs
    isBool
    isFunction
    isInt
    isFloat
    isList
    isPath
    isString
    ;
  id = value: value;
  boolToString = value: if value then "true" else "false";
  min = a: b: if a < b then a else b;
  mod = a: b: a - b * (a / b);
}
