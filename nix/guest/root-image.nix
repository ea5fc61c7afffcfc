# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A guest's root image: a disk with a GPT and one partition named `root`, an erofs
# with busybox, the packages and what all of them need; docs/nix.md describes the
# arguments.
{
  pkgs,
  packages ? [ ],
  init ? ./init,
  wayland ? false,
}:
let
  inherit (pkgs) lib;
  # A package's program replaces busybox's of the same name.
  all = [ pkgs.busybox ] ++ lib.optional wayland pkgs.wayland-proxy-virtwl ++ packages;

  # All but the store, which this names.
  tree = pkgs.runCommand "spectrum-guest-tree" { } ''
    if ! test -x ${init}; then
      echo "init: ${init} is not executable: chmod +x, or write it with pkgs.writeShellScript" >&2
      exit 1
    fi
    mkdir -p $out/{bin,dev,mnt,nix/store,proc,run,sbin,sys,tmp,usr/lib/microvm-spectrum}
    for package in ${toString (map (package: "${lib.getBin package}") all)}; do
      if test -d $package/bin; then ln -sf $package/bin/* $out/bin/; fi
    done
    ln -s ${init} $out/sbin/init
    ln -s ${../../guest/microvm-guest} $out/usr/lib/microvm-spectrum/microvm-guest
  '';
in
pkgs.runCommand "spectrum-guest-root.img"
  {
    nativeBuildInputs = [
      pkgs.erofs-utils
      pkgs.util-linux
    ];
    closure = pkgs.closureInfo { rootPaths = [ tree ]; };
  }
  ''
    cp --recursive --no-dereference ${tree} root
    chmod --recursive u+w root
    while read -r path; do
      cp --recursive --no-dereference --preserve=mode "$path" root/nix/store/
    done <$closure/store-paths

    mkfs.erofs --quiet -T0 -U 6d766d2d-7370-6563-8000-000000000001 --all-root root.erofs root
    # The partition starts at 1 MiB; GPT keeps a copy of its table at the end.
    mebibytes=$((($(stat --format=%s root.erofs) + 1048575) / 1048576))
    truncate --size=$((mebibytes + 2))M image
    sfdisk --quiet image <<END
    label: gpt
    label-id: 6d766d2d-7370-6563-8000-000000000002
    first-lba: 2048
    start=1MiB, size=''${mebibytes}MiB, name=root, uuid=6d766d2d-7370-6563-8000-000000000003
    END
    dd if=root.erofs of=image bs=1M seek=1 conv=notrunc status=none
    mv image $out
  ''
