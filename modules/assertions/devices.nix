# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# PCI devices of more than one VM: only one can have a device. Those of `vms` are in
# their packages, where the program does not see them before the switch.
{
  cfg,
  lib,
  words,
}:
let
  entries =
    place:
    words.each (
      name: own:
      map (device: {
        inherit device;
        place = place name;
      }) own.devices
    );
in
words.each
  (
    device: same:
    words.unless (lib.length same == 1)
      "${words.all (map (entry: entry.place) same)} list the PCI device ${device}: give it to one VM"
  )
  (
    lib.groupBy (entry: entry.device) (
      entries words.devices cfg.vms
      ++ entries words.devicesInSettings (removeAttrs cfg.settings.vm (lib.attrNames cfg.vms))
    )
  )
