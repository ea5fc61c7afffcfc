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
  id = value: value;
  boolToString = value: if value then "true" else "false";
  min = a: b: if a < b then a else b;
  mod = a: b: a - b * (a / b);
  toHexString =
    number:
    let
      digit = n: builtins.substring n 1 "0123456789ABCDEF";
    in
    if number < 16 then digit number else toHexString (number / 16) + digit (mod number 16);
}
