# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Stands in for Nixpkgs' `lib` where there is no Nixpkgs: just what the flake,
# its library and its module take from it, with the same names and meaning.
# NIXPKGS_LIB names another one, against which the same tests run.
let
  lib =
    parts
    // parts.trivial
    // parts.lists
    // parts.attrsets
    // parts.strings
    // parts.options
    // parts.modules
    // parts.meta;
  parts = {
    trivial = import ./trivial.nix { };
    lists = import ./lists.nix { };
    attrsets = import ./attrsets.nix { };
    strings = import ./strings.nix { inherit lib; };
    options = import ./options.nix { inherit lib; };
    types = import ./types.nix { inherit lib; };
    modules = import ./modules.nix { inherit lib; };
    meta = import ./meta.nix { };
    generators = import ./generators.nix { inherit lib; };
  };
in
lib
