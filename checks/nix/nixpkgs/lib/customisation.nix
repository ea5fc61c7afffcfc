# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Results that can be made again with other arguments.
{ }:
rec {
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
}
