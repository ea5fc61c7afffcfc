# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The package set of a system, as `import nixpkgs { }` gives it.
{
  system ? builtins.currentSystem,
}:
import ./packages {
  inherit system;
  lib = import ./lib;
  machine = builtins.fromJSON (builtins.readFile ./machine.json);
}
