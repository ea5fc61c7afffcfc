# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Whole packages of mkRunner against those in `packages/`. A store path stands there
# without its hash and without what it has after the name, and the manifest's own
# hash as @MANIFEST@. `nix build .#checks.x86_64-linux.golden.found`, copied there,
# brings them up to date; what changed is then for a review to judge.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  # Tools that no version of Nixpkgs changes; nothing executes them.
  tool = name: pkgs.runCommand name { } "mkdir $out";
  vmDir = pkgs.runCommand "golden-vm" { } ''
    mkdir -p $out/blk $out/providers/net $out/shared-dirs/{home,store}
    { printf '\177ELF\2\1\1'; printf '\0%.0s' {1..9}; printf '\2\0\76\0'; printf '\0%.0s' {1..44}; } >$out/vmlinux
    echo root >$out/blk/root.img
    touch $out/providers/net/netvm
    ln -s /ext/home $out/shared-dirs/home/dir
    ln -s ${tool "golden-share"} $out/shared-dirs/store/dir
  '';
  runner =
    hypervisor:
    self.lib.mkRunner {
      inherit hypervisor pkgs vmDir;
      name = "golden";
      providers = [ "netvm" ];
      shares = [
        "home"
        "store"
      ];
      allow."/ext" = "/srv/there";
      devices = [ "0000:01:00.0" ];
      linkPorts = 4;
      memory = 512;
      vcpus = 2;
      cloud-hypervisor = tool "golden-cloud-hypervisor";
      iproute2 = tool "golden-iproute2";
      nftables = tool "golden-nftables";
      qemu = tool "golden-qemu";
      virtiofsd = tool "golden-virtiofsd";
    };
  found = pkgs.runCommand "microvm-spectrum-golden-packages" { } (
    ''
      mkdir $out
    ''
    +
      lib.concatMapStrings
        (hypervisor: ''
          cp --recursive --no-dereference ${runner hypervisor} $out/${hypervisor}
          chmod -R u+w $out/${hypervisor}
          cd $out/${hypervisor}
          readlink share/microvm/system >system
          mv system share/microvm/system.target
          rm share/microvm/system
          mv share/microvm-spectrum/sha256-* share/microvm-spectrum/sha256-@MANIFEST@
          find . -type f -exec sed -i -E \
            's#/nix/store/[a-z0-9]{32}-(microvm-spectrum)-[0-9.]+#/nix/store/\1#g; s#/nix/store/[a-z0-9]{32}-#/nix/store/#g' {} +
        '')
        [
          "cloud-hypervisor"
          "qemu"
        ]
  );
in
if pkgs.stdenv.hostPlatform.system != "x86_64-linux" then
  pkgs.runCommand "microvm-spectrum-golden-packages-are-for-x86_64" { } "touch $out"
else
  pkgs.runCommand "microvm-spectrum-golden" { passthru = { inherit found; }; } ''
    diff -r --no-dereference ${./packages} ${found}
    touch $out
  ''
