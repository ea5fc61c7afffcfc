# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The links between VMs, as far as they are known at evaluation.
#
# `vms` has, by name, `providers`, a list of names or null, and `linkIds`, the
# declared ids by provider.
{ lib }:
rec {
  # The program's own rule (src/link.rs): the first two bytes of a hash of both
  # names. 0000 and ffff are not used.
  deriveId =
    client: provider:
    let
      id = builtins.substring 0 4 (builtins.hashString "sha256" "${client}\n${provider}");
    in
    if id == "0000" || id == "ffff" then "0001" else id;

  # All links: client, provider, id.
  linksOf =
    vms:
    lib.concatLists (
      lib.mapAttrsToList (
        client: vm:
        map (provider: {
          inherit client provider;
          id = lib.toLower (vm.linkIds.${provider} or (deriveId client provider));
        }) (if vm.providers == null then lib.attrNames vm.linkIds else vm.providers)
      ) vms
    );

  # Lists of links that have one id.
  collisionsOf =
    links: lib.filter (same: lib.length same > 1) (lib.attrValues (lib.groupBy (link: link.id) links));

  # The id after this one that no link has.
  freeId =
    links: id:
    let
      taken = map (link: link.id) links;
      number = (builtins.fromTOML "id = 0x${id}").id;
      text = n: lib.toLower (lib.fixedWidthString 4 "0" (lib.toHexString n));
      next = n: if n >= 65534 then 1 else n + 1;
      search = n: if lib.elem (text n) taken then search (next n) else text n;
    in
    search (next number);

  # The ways from a VM over providers back to itself, each as a list of names
  # that begins and ends with the first of them in the alphabet.
  cyclesOf =
    vms:
    let
      edges = lib.mapAttrs (
        _: vm: lib.filter (provider: vms ? ${provider}) (if vm.providers == null then [ ] else vm.providers)
      ) vms;
      # Without those VMs of whose providers none is left, again and again,
      # every VM has a provider that has one, and so on: some way of each leads
      # into a cycle.
      prune =
        edges:
        let
          left = lib.mapAttrs (_: lib.filter (provider: edges ? ${provider})) edges;
          kept = lib.filterAttrs (_: providers: providers != [ ]) left;
        in
        if kept == edges then edges else prune kept;
      rest = prune edges;
      cycleFrom =
        way: name:
        if lib.elem name way then
          rotate (dropUntil name way)
        else
          cycleFrom (way ++ [ name ]) (lib.head rest.${name});
      dropUntil = name: way: if lib.head way == name then way else dropUntil name (lib.tail way);
      rotate =
        cycle:
        let
          first = lib.head (lib.sort (a: b: a < b) cycle);
          turned =
            cycle: if lib.head cycle == first then cycle else turned (lib.tail cycle ++ [ (lib.head cycle) ]);
        in
        turned cycle ++ [ first ];
    in
    lib.unique (map (cycleFrom [ ]) (lib.attrNames rest));
}
