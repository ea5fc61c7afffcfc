# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is of no other subject.
{ }:
{
  inherit (builtins)
    functionArgs
    isBool
    isFunction
    isInt
    isFloat
    ;
  id = value: value;
  boolToString = value: if value then "true" else "false";
  min = a: b: if a < b then a else b;
}
