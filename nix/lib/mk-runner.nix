# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The runner package of one VM directory, which `override` makes again with other
# arguments; docs/nix.md describes them.
arguments@{ pkgs, ... }: pkgs.lib.makeOverridable (import ./runner.nix) arguments
