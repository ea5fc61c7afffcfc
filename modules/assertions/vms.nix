# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with single VMs, which mkRunner and the configuration do not show.
{
  cfg,
  lib,
  words,
}:
let
  inherit (words) all unless;

  # The options that only a vmDir has, with their defaults.
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
    waylandMemory = null;
  };

  problems =
    name: own:
    let
      here = words.vm name;
      hasRunner = own.runner != null;
      hasVmDir = own.vmDir != null;
      superfluous = lib.filter (option: own.${option} != ofVmDirs.${option}) (lib.attrNames ofVmDirs);
    in
    unless (!hasVmDir || !hasRunner) "${here} has both vmDir and runner: keep one of them"
    ++ unless (hasVmDir || hasRunner) "${here} has neither vmDir nor runner: set one of them"
    ++
      unless (!hasRunner || hasVmDir || superfluous == [ ])
        "${here} has a runner, which has ${all superfluous} built in: remove them here, and build the runner with them"
    ++
      unless (!hasVmDir || hasRunner || own.links.providers != null)
        "${here} has a vmDir that is a derivation, which evaluation does not read: set providers to the names in its providers/net, [ ] for none";
in
words.each problems cfg.vms
