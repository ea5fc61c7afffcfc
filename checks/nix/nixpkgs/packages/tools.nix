# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Packages that are tools of the machine, under the names that Nixpkgs has for them.
{ machine, build }:
let
  # Links to programs, by the names that they have in the package.
  wrap =
    name: programs:
    build.runCommand name { } ''
      mkdir -p $out/bin
      ${builtins.concatStringsSep "\n" (
        builtins.attrValues (
          builtins.mapAttrs (program: path: ''
            ln -s ${path} $out/bin/${program}
          '') programs
        )
      )}
    '';
  # A copy, for a program that other users execute, too.
  copy =
    name: program: path:
    build.runCommand name { } "install -D --mode=755 ${path} $out/bin/${program}";
  # What the machine lacks: enough to be named in a package, and not to be executed.
  absent =
    name: programs:
    build.runCommand name { } ''
      mkdir -p $out/bin
      for program in ${toString programs}; do
        printf '#!/bin/sh\necho "$0 is not on this machine" >&2\nexit 1\n' >$out/bin/$program
        chmod 755 $out/bin/$program
      done
    '';
  standard =
    name: programs:
    wrap name (
      builtins.intersectAttrs (builtins.listToAttrs (
        map (name: {
          inherit name;
          value = null;
        }) programs
      )) machine.standard
    );
in
{
  bc = wrap "bc" { inherit (machine) bc; };
  bison = wrap "bison" { inherit (machine) bison; };
  busybox = build.runCommand "busybox" { } ''
    install -D --mode=755 ${machine.busybox} $out/bin/busybox
    for applet in $($out/bin/busybox --list | grep -vxF busybox); do
      ln -s busybox $out/bin/$applet
    done
  '';
  cargo = wrap "cargo" { inherit (machine) cargo; };
  clippy = wrap "clippy" { inherit (machine) cargo-clippy clippy-driver; };
  cloud-hypervisor = absent "cloud-hypervisor-53.0" [
    "cloud-hypervisor"
  ];
  coreutils = standard "coreutils" [
    "cat"
    "cp"
    "mkdir"
  ];
  deadnix = wrap "deadnix" { inherit (machine) deadnix; };
  elfutils = build.runCommand "elfutils" { } "mkdir -p $out/bin";
  erofs-utils = wrap "erofs-utils" { "mkfs.erofs" = machine.mkfs-erofs; };
  dejavu_fonts = build.runCommand "dejavu-fonts" { } "mkdir -p $out/share/fonts";
  findutils = standard "findutils" [ "find" ];
  foot = absent "foot" [ "foot" ];
  flex = wrap "flex" { inherit (machine) flex; };
  gnugrep = standard "gnugrep" [ "grep" ];
  gnused = standard "gnused" [ "sed" ];
  iproute2 = wrap "iproute2" { inherit (machine) ip; };
  nftables = wrap "nftables" { inherit (machine) nft; };
  nixfmt = wrap "nixfmt" { inherit (machine) nixfmt; };
  nixfmt-tree = absent "nixfmt-tree" [ "treefmt" ];
  passt = wrap "passt" { inherit (machine) passt; };
  perl = wrap "perl" { inherit (machine) perl; };
  qemu_kvm = wrap "qemu" {
    qemu-system-x86_64 = machine.qemu;
    qemu-system-aarch64 = machine.qemu;
  };
  rustc = wrap "rustc" { inherit (machine) rustc; };
  rustfmt = wrap "rustfmt" { inherit (machine) cargo-fmt rustfmt; };
  util-linux = wrap "util-linux" { inherit (machine) sfdisk; };
  wayland-proxy-virtwl = absent "wayland-proxy-virtwl" [ "wayland-proxy-virtwl" ];
  virtiofsd = copy "virtiofsd" "virtiofsd" machine.virtiofsd;
}
