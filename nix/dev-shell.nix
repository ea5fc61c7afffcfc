# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What `cargo build` and the tests that boot no VM take, and the Nix formatters.
{
  cargo,
  clippy,
  deadnix,
  mkShell,
  nixfmt,
  rustc,
  rustfmt,
}:
mkShell {
  packages = [
    cargo
    clippy
    deadnix
    nixfmt
    rustc
    rustfmt
  ];
}
