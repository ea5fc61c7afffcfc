# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A disk image with one partition named `root`: an erofs with busybox, what busybox
# needs, and the test guest's init.
{
  busybox,
  closureInfo,
  erofs-utils,
  runCommand,
  util-linux,
}:
runCommand "spectrum-example-root.img"
  {
    nativeBuildInputs = [
      erofs-utils
      util-linux
    ];
    closure = closureInfo { rootPaths = [ busybox ]; };
  }
  ''
    mkdir -p tree/{bin,dev,mnt,nix/store,proc,run,sbin,sys,tmp}
    while read -r path; do
      cp --recursive --no-dereference --preserve=mode "$path" tree/nix/store/
    done <$closure/store-paths
    for program in ${busybox}/bin/*; do
      ln -s "$program" tree/bin/
    done
    install --mode=755 ${../../checks/guest/init} tree/sbin/init

    mkfs.erofs --quiet -T0 -U 6d766d2d-7370-6563-8000-000000000001 --all-root root.erofs tree
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
