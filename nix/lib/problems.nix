# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# All problems in one go: `value`, or an evaluation error that lists them.
problems: value:
if problems == [ ] then
  value
else
  throw (
    "microvm-spectrum: "
    + (
      if builtins.length problems == 1 then "" else "${toString (builtins.length problems)} problems:\n  "
    )
    + builtins.concatStringsSep "\n  " problems
  )
