# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Settings for which the program would refuse the configuration as a whole.
{
  cfg,
  lib,
  words,
}:
let
  inherit (words) unless;
  inherit (cfg) settings;

  problems =
    key: own:
    let
      here = words.settings key;
      parts = builtins.match "([^/]*)/.*" key;
      isItsSource =
        source: if parts == null then lib.length settings.source == 1 else source.name == lib.head parts;
      ofThis = lib.filter isItsSource settings.source;
      mayAutostart = source: source.kind != "user-partition" || source.autostart or false;
    in
    lib.optionals (own.runner == null) (
      unless (ofThis != [ ])
        "${here} names no VM of a source: write SOURCE/NAME with the name of one of the ${words.option "sources"}; NAME alone is enough where there is only one"
      ++ lib.concatMap (
        source:
        unless (own.autostart != true || mayAutostart source)
          "${here}.autostart: VMs of the source ${source.name} may not start with the host; set autostart = true for the source, or remove it here"
      ) ofThis
    );

  ofTool =
    name: path:
    unless (words.isAbsolute path) "${words.tool name}: the path ${path} is not absolute; write it from / on";
in
words.each problems (removeAttrs settings.vm (lib.attrNames cfg.vms))
++ words.each ofTool settings.tools
