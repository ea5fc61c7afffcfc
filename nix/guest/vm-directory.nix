# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A VM directory in Spectrum's format; docs/nix.md describes the arguments. Kernel
# and image are files of its own, not links to the store: it can be copied to a user
# partition and run there, by Spectrum, too.
let
  mkRootImage = import ./root-image.nix;
  names = import ../lib/names.nix;
  orThrow = import ../lib/problems.nix;
in
{
  pkgs,
  name,
  kernel ? pkgs.callPackage ./kernel.nix { },
  rootImage ? null,
  packages ? null,
  init ? null,
  providers ? [ ],
  shares ? { },
  wayland ? false,
}:
let
  inherit (pkgs) lib;

  ofRootImage = lib.filterAttrs (_: value: value != null) { inherit packages init; };
  image =
    if rootImage != null then rootImage else mkRootImage ({ inherit pkgs wayland; } // ofRootImage);

  problems =
    names.check "a VM's name" name
    ++ builtins.concatMap (names.check "${name}: a network provider") providers
    ++ (
      if rootImage == null then
        [ ]
      else
        map (
          argument:
          "${name}: ${argument} is for an image that mkVmDirectory makes, and rootImage names another: give mkRootImage that argument, or remove rootImage"
        ) (builtins.attrNames ofRootImage)
    );
in
orThrow problems (
  pkgs.runCommand "spectrum-vm-${name}"
    {
      # What mkRunner and the module need to know before this is built.
      passthru = {
        inherit providers shares;
        vmName = name;
      };
    }
    ''
      mkdir -p $out/blk
      cp ${kernel} $out/vmlinux
      cp ${image} $out/blk/root.img
      ${lib.concatMapStrings (provider: ''
        mkdir -p $out/providers/net
        touch $out/providers/net/${provider}
      '') providers}
      ${lib.concatStrings (
        lib.mapAttrsToList (tag: directory: ''
          mkdir -p $out/shared-dirs/${lib.escapeShellArg tag}
          ln -s ${lib.escapeShellArg directory} $out/shared-dirs/${lib.escapeShellArg tag}/dir
        '') shares
      )}
      ${lib.optionalString wayland "touch $out/wayland"}
    ''
)
