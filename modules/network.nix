# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The links between VMs, as far as they are known at evaluation.
#
# `vms` has, by name, `providers`, a list of names or null, and `linkIds`, the
# declared ids by provider.
{ lib }:
let
  linkIdRules = import ../nix/lib/link-ids.nix;
  cyclesOf = import ../nix/lib/cycles.nix;
in
{
  # All links: client, provider, id.
  linksOf =
    vms:
    lib.concatLists (
      lib.mapAttrsToList (
        client: vm:
        map (provider: {
          inherit client provider;
          id = linkIdRules.normal (vm.linkIds.${provider} or (linkIdRules.derive client provider));
        }) (if vm.providers == null then lib.attrNames vm.linkIds else vm.providers)
      ) vms
    );

  # Lists of links that have one id.
  collisionsOf =
    links: lib.filter (same: lib.length same > 1) (lib.attrValues (lib.groupBy (link: link.id) links));

  # The id after this one that no link has.
  freeId = links: linkIdRules.nextFree (map (link: link.id) links);

  # The cycles of providers.
  cyclesOf =
    vms: cyclesOf (lib.mapAttrs (_: vm: if vm.providers == null then [ ] else vm.providers) vms);
}
