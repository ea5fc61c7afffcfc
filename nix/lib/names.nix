# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The rule of VM names, as the program has it in src/base/name.rs. Every function here
# and in the files beside it that checks something returns a list of what is wrong.
rec {
  pattern = "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}";

  isName = name: builtins.isString name && builtins.match pattern name != null;

  # What is wrong with `name`, which `what` stands for in the message.
  check =
    what: name:
    if isName name then
      [ ]
    else
      [
        "${what} cannot be ${builtins.toJSON name}: the name of a VM has letters, digits, '_', '.' and '-', at most 64, and begins with a letter, a digit or '_'"
      ];
}
