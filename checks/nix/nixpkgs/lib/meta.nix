# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What packages say of themselves.
{ }:
rec {
  getExe =
    package:
    getExe' package (
      package.meta.mainProgram or package.pname or (builtins.parseDrvName package.name).name
    );
  getExe' = package: name: "${package.bin or package.out or package}/bin/${name}";
}
