# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Every option is typed, described, and has an example of its type.
{
  lib,
  evaluate,
  ...
}:
let
  inherit ((evaluate [ ]).options.services) microvm-spectrum;
  documented = import ./documented.nix { inherit lib; } microvm-spectrum;
  without =
    attribute:
    map (option: option.name) (lib.filter (option: option.${attribute} or null == null) documented);
  none = actual: {
    expected = [ ];
    inherit actual;
  };
  # Those that are shown as they are, not as an expression.
  withExample = lib.filter (option: option ? example && !(option.example ? _type)) (
    lib.collect lib.isOption microvm-spectrum
  );
in
{
  every_option_is_described = none (without "description");
  every_option_has_an_example = none (without "example");
  every_option_has_a_type = none (
    map (option: option.name) (
      lib.filter (
        option:
        lib.elem option.type [
          "unspecified"
          "unspecified value"
          "raw value"
        ]
      ) documented
    )
  );
  examples_are_of_their_types = none (
    map (option: lib.showOption option.loc) (
      lib.filter (option: !option.type.check option.example) withExample
    )
  );
  there_are_options = {
    expected = true;
    actual = lib.length documented > 40;
  };
}
