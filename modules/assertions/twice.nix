# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What only one VM can have: a PCI device, a user id.
{
  cfg,
  lib,
  words,
}:
let
  entries =
    option: values:
    let
      placed =
        place: name: own:
        map (value: {
          inherit value;
          place = place name option;
        }) (values own);
    in
    words.each (placed words.ofVm) cfg.vms
    ++ words.each (placed words.ofSettings) (removeAttrs cfg.settings.vm (lib.attrNames cfg.vms));
  # Each value that several have, with their places.
  twice =
    entries: tell:
    words.each (
      value: same:
      words.unless (lib.length same == 1) (tell value (words.all (map (entry: entry.place) same)))
    ) (lib.groupBy (entry: toString entry.value) entries);
in
twice (entries "devices" (own: own.devices)) (
  device: places: "${places} list the PCI device ${device}; give it to one VM, once"
)
++ twice (entries "uid" (own: lib.optional (own.uid != null) own.uid)) (
  uid: places: "${places} are both ${uid}; change one of them"
)
