# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with the links between VMs.
{
  cfg,
  lib,
  words,
}:
let
  inherit (words) all;
  inherit (cfg) settings vms;
  network = import ../network.nix { inherit lib; };
  graph = lib.mapAttrs (_: own: own.links) vms;

  # VMs of sources can provide networks, too, and are not known here.
  unknownProviders = lib.optionals (settings.source == [ ]) (
    words.each (
      name: own:
      map (
        provider:
        "${words.vm name}: its network provider ${provider} is none of ${words.option "vms"}; add it there, or remove providers/net/${provider}"
      ) (lib.filter (provider: !vms ? ${provider}) (if own.providers == null then [ ] else own.providers))
    ) graph
  );

  cycles = map (
    cycle:
    "${words.option "vms"}: a VM cannot provide its own network, over others or not: ${lib.concatStringsSep " -> " cycle}; remove one of these from the providers of the one before"
  ) (network.cyclesOf graph);

  # Settings of VMs of sources declare ids, too.
  declared = lib.mapAttrs (_: own: {
    providers = null;
    linkIds = own.links;
  }) (removeAttrs settings.vm (lib.attrNames vms));
  links = network.linksOf (graph // declared);
  ofRunner = link: vms ? ${link.client} && vms.${link.client}.runner != null;
  remedy =
    link:
    let
      id = "\"${network.freeId links link.id}\"";
    in
    if ofRunner link then
      "build the runner of ${link.client} with linkIds.${link.provider} = ${id}"
    else if vms ? ${link.client} then
      "set ${words.linkId link.client link.provider} = ${id}"
    else
      "set ${words.linkIdInSettings link.client link.provider} = ${id}";
  collisions = map (
    same:
    let
      told = map (link: "${link.client} -> ${link.provider}") same;
      # One that can be changed here, if there is one.
      changed = lib.last (lib.filter ofRunner same ++ lib.filter (link: !ofRunner link) same);
    in
    "the links ${all told} have the same id ${changed.id}; ${remedy changed}"
  ) (network.collisionsOf links);
in
unknownProviders ++ cycles ++ collisions
