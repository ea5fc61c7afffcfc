# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The runner packages of a folder of VM directories, and the links between them;
# docs/nix.md describes the arguments.
let
  cycles = import ./cycles.nix;
  linkIdRules = import ./link-ids.nix;
  mkRunner = import ./mk-runner.nix;
  names = import ./names.nix;
  orThrow = import ./problems.nix;
in
{
  pkgs,
  dir ? null,
  vms ? { },
  defaults ? { },
  linkIds ? { },
  externalProviders ? [ ],
}:
let
  inherit (pkgs) lib;

  isThere = dir != null && builtins.pathExists dir;
  entries = if isThere then builtins.readDir dir else { };
  # A file beside the VM directories, such as a README, is none of them.
  found = builtins.filter (name: entries.${name} == "directory" || entries.${name} == "symlink") (
    builtins.attrNames entries
  );
  vmNames = builtins.attrNames (vms // lib.genAttrs found (_: null));

  runners = lib.genAttrs vmNames (
    name:
    mkRunner (
      {
        inherit pkgs name;
      }
      // lib.optionalAttrs (entries ? ${name}) { vmDir = dir + "/${name}"; }
      // defaults
      // lib.optionalAttrs (linkIds ? ${name}) { linkIds = linkIds.${name}; }
      // vms.${name} or { }
    )
  );

  all = builtins.attrValues runners;
  links = builtins.concatMap (runner: runner.links) all;

  problemsOfNames =
    (if dir != null && !isThere then [ "the folder ${toString dir} does not exist" ] else [ ])
    ++ builtins.concatMap (names.check "in ${toString dir} a VM's name") (
      builtins.filter (name: entries ? ${name}) vmNames
    )
    ++ builtins.concatMap (names.check "a VM's name (vms)") (
      builtins.filter (name: !entries ? ${name}) vmNames
    )
    ++ builtins.concatMap (
      name:
      if entries ? ${name} || vms.${name} ? vmDir || defaults ? vmDir then
        [ ]
      else
        [ "vms.${name} has no vmDir, and there is no directory of that name" ]
    ) vmNames
    ++ map (name: "linkIds.${name} is set, and there is no VM of that name") (
      builtins.filter (name: !builtins.elem name vmNames) (builtins.attrNames linkIds)
    );

  unknownProviders = builtins.concatMap (
    link:
    if runners ? ${link.provider} || builtins.elem link.provider externalProviders then
      [ ]
    else
      [
        "${link.client}: no VM has the name of its network provider ${link.provider}; correct providers/net, or name it in externalProviders if it comes from elsewhere"
      ]
  ) links;

  problems =
    if problemsOfNames != [ ] then
      problemsOfNames
    else
      unknownProviders
      ++ cycles (builtins.mapAttrs (_: runner: runner.providers) runners)
      ++ linkIdRules.collisions (link: "set linkIds.${link.client}.${link.provider}") links;
in
orThrow problems {
  inherit runners links;
  packages = lib.mapAttrs' (name: runner: lib.nameValuePair "vm-${name}" runner) runners;
  nixosConfigurations = builtins.mapAttrs (_: runner: runner.nixosConfiguration) runners;
}
