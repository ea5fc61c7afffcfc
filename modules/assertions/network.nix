# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with the links between VMs, as far as they are known at evaluation.
{
  cfg,
  lib,
  words,
}:
let
  inherit (cfg) settings vms;
  cycles = import ../../nix/lib/cycles.nix;
  linkIdRules = import ../../nix/lib/link-ids.nix;
  known = lib.mapAttrs (_: vm: vm.links) vms;
  providersOf = links: if links.providers == null then [ ] else links.providers;

  # VMs of sources can provide networks, too, and are not known here.
  unknownProviders = lib.optionals (cfg.sources == [ ]) (
    words.each (
      client: links:
      map (
        provider:
        "${words.vm client}: no VM has the name of its network provider ${provider}; add it to ${words.option "vms"}, or remove providers/net/${provider}"
      ) (lib.filter (provider: !vms ? ${provider}) (providersOf links))
    ) known
  );

  # Settings of VMs of sources declare ids, too.
  declared = lib.mapAttrs (_: own: {
    providers = null;
    linkIds = own.links;
  }) (removeAttrs settings.vm (lib.attrNames vms));
  links = words.each (
    client: of:
    map (provider: {
      inherit client provider;
      id = linkIdRules.normal (of.linkIds.${provider} or (linkIdRules.derive client provider));
    }) (if of.providers == null then lib.attrNames of.linkIds else of.providers)
  ) (known // declared);

  # The last of those with one id is to be changed: it comes from here, if one does.
  ofRunners = builtins.partition (
    link: vms ? ${link.client} && vms.${link.client}.runner != null
  ) links;
  set =
    link:
    if lib.elem link ofRunners.right then
      "build the runner of ${link.client} with linkIds.${link.provider}"
    else if vms ? ${link.client} then
      "set ${words.linkId link.client link.provider}"
    else
      "set ${words.linkIdInSettings link.client link.provider}";
in
unknownProviders
++ map (message: "${words.option "vms"}: ${message}") (cycles (lib.mapAttrs (_: providersOf) known))
++ linkIdRules.collisions set (ofRunners.right ++ ofRunners.wrong)
