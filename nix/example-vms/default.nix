# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Three VMs: one that provides a network, one that uses it, and one with a shared
# directory. Their directories come out of a build, so what they name is said here.
{ pkgs, mkRunners }:
let
  inherit (pkgs) lib;

  kernel = pkgs.callPackage ./kernel.nix { };
  image = pkgs.callPackage ./root-image.nix { };
  greeting = pkgs.runCommand "spectrum-example-greeting" { } ''
    mkdir $out
    echo "Hello from a shared directory." >$out/hello.txt
  '';

  vm =
    name:
    {
      providers ? [ ],
      shares ? { },
    }:
    {
      inherit providers shares;
      vmDir = pkgs.runCommand "spectrum-example-${name}" { } ''
        mkdir -p $out/blk
        ln -s ${kernel} $out/vmlinux
        ln -s ${image} $out/blk/root.img
        ${lib.concatMapStrings (provider: ''
          mkdir -p $out/providers/net
          touch $out/providers/net/${provider}
        '') providers}
        ${lib.concatStrings (
          lib.mapAttrsToList (tag: directory: ''
            mkdir -p $out/shared-dirs/${tag}
            ln -s ${directory} $out/shared-dirs/${tag}/dir
          '') shares
        )}
      '';
    };
in
mkRunners {
  inherit pkgs;
  defaults = {
    # Runs everywhere, without KVM too, which a host of your own will have.
    hypervisor = "qemu";
    accel = "tcg";
    memory = 128;
  };
  vms = builtins.mapAttrs vm {
    netvm = { };
    appvm-online.providers = [ "netvm" ];
    appvm-hello.shares.greeting = "${greeting}";
  };
}
