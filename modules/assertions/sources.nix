# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with the sources.
{
  cfg,
  lib,
  words,
}:
let
  inherit (words) all unless;
  inherit (cfg) sources;
  place = n: "${words.option "sources"}, entry ${toString n}";

  problems =
    n: source:
    let
      here = "${place n} (${source.name})";
      inherit (source) name path partuuid;
    in
    unless (words.isName name) "${here}: ${words.nameRule}"
    ++ unless (
      name != "configuration"
    ) "${here}: so are the VMs called that are in ${words.option "vms"}; rename it"
    ++
      unless (path == null || partuuid == null)
        "${here} has a path and a partuuid: keep path if you mount it, partuuid if it is to be mounted when it appears"
    ++ unless (
      path != null || partuuid != null
    ) "${here} has neither a path nor a partuuid: write where it is"
    ++ unless (
      partuuid == null || source.kind == "user-partition"
    ) "${here} has a partuuid and is no user-partition: mount it, and write its path"
    ++ unless (
      path == null || words.isAbsolute path
    ) "${here}: the path ${path} is not absolute; write it from / on";

  named = lib.groupBy (entry: entry.name) (
    lib.imap1 (n: source: {
      inherit (source) name;
      place = place n;
    }) sources
  );
in
lib.concatLists (lib.imap1 problems sources)
++ words.each (
  name: same:
  unless (lib.length same == 1)
    "${all (map (entry: entry.place) same)} have the name ${name}; rename one"
) named
