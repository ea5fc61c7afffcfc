# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with single VMs.
{
  cfg,
  lib,
  words,
}:
let
  inherit (words) all unless;
  inherit (import ../../nix/lib/link-ids.nix) normal;
  vms = words.option "vms";

  # What a package decides by itself, and what these are when nothing is said.
  ofVmDirs = {
    accel = null;
    allow = { };
    devices = [ ];
    hypervisor = null;
    linkIds = { };
    linkPorts = null;
    memory = null;
    providers = null;
    shares = null;
    vcpus = null;
  };
  # What ./../vms.nix writes itself.
  besideRunner = [
    "runner"
    "autostart"
    "uid"
    "restart-if-changed"
  ];
  unused = [
    "0000"
    "ffff"
  ];

  problems =
    name: own:
    let
      here = words.vm name;
      hasRunner = own.runner != null;
      hasVmDir = own.vmDir != null;
      superfluous = lib.filter (option: own.${option} != ofVmDirs.${option}) (lib.attrNames ofVmDirs);
      settings = lib.filterAttrs (_: value: value != null && value != { } && value != [ ]) (
        removeAttrs (cfg.settings.vm.${name} or { }) besideRunner
      );
      declared = lib.attrNames own.linkIds;
    in
    unless (words.isName name) "${here}: ${words.nameRule}"
    ++ unless (!hasVmDir || !hasRunner) "${here} has both vmDir and runner: keep one of them"
    ++ unless (hasVmDir || hasRunner) "${here} has neither vmDir nor runner: set one of them"
    ++
      unless (!hasRunner || hasVmDir || superfluous == [ ])
        "${here} has a runner, which decides about ${all superfluous} by itself: remove that here, and build the runner with it"
    ++ unless (
      settings == { }
    ) "${words.settings name} sets ${all (lib.attrNames settings)} for a VM of ${vms}: set it there"
    ++
      unless (!hasVmDir || hasRunner || own.links.providers != null)
        "${here}: the vmDir is built, and is not read before; set providers to the names in its providers/net, [ ] for none"
    ++ lib.concatMap (
      provider:
      unless (
        hasRunner || own.links.providers == null || lib.elem provider own.links.providers
      ) "${words.linkId name provider}: ${provider} provides no network to ${name}; remove it"
      ++ unless (
        !lib.elem (normal own.linkIds.${provider}) unused
      ) "${words.linkId name provider}: the ids 0000 and ffff are not used; choose another"
    ) declared;
in
words.each problems cfg.vms
