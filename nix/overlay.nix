# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
final: _: {
  microvm-spectrum = final.callPackage ./package.nix { };
}
