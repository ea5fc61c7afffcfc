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
    // removeAttrs parts.strings [
      "escapeNixIdentifier"
      "escapeNixString"
    ]
    // removeAttrs parts.options [
      "renderOptionValue"
      "showDefs"
    ]
    // parts.modules
    // parts.meta
    // parts.customisation
    // {
      inherit (parts.types) isType;
    };
  parts = {
    trivial = import ./trivial.nix { };
    lists = import ./lists.nix { };
    attrsets = import ./attrsets.nix { };
    strings = import ./strings.nix { };
    options = import ./options.nix { inherit lib; };
    types = import ./types.nix { inherit lib; };
    modules = import ./modules.nix { inherit lib; };
    meta = import ./meta.nix { };
    customisation = import ./customisation.nix { };
    generators = import ./generators.nix { inherit lib; };
    licenses.gpl2Only = {
      spdxId = "GPL-2.0-only";
      shortName = "gpl2Only";
      fullName = "GNU General Public License v2.0 only";
      free = true;
    };
    licenses.eupl12 = {
      spdxId = "EUPL-1.2";
      shortName = "eupl12";
      fullName = "European Union Public License 1.2";
      free = true;
    };
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
in
lib
