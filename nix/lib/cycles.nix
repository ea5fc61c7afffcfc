# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What is wrong with a graph of providers: the ways from a VM over its providers and
# theirs back to itself, each with the first of its names in the alphabet at both ends.
# Every VM that leads into a cycle leads into one of these.
#
# `graph` has the names of providers, by VM; those that are not in it lead nowhere.
graph:
let
  inherit (builtins) attrNames elem filter;

  # Without those VMs of whose providers none is left, again and again, each of the
  # rest has a provider among the rest: whichever way one goes ends in a cycle. No
  # way is walked twice, however many there are.
  prune =
    graph:
    let
      left = builtins.mapAttrs (_: filter (provider: graph ? ${provider})) graph;
      dead = filter (name: left.${name} == [ ]) (attrNames left);
    in
    if dead == [ ] then left else prune (removeAttrs left dead);
  rest = prune graph;

  cycleFrom =
    way: name:
    if elem name way then
      turned (since name way)
    else
      cycleFrom (way ++ [ name ]) (builtins.head rest.${name});
  since = name: way: if builtins.head way == name then way else since name (builtins.tail way);
  turned =
    cycle:
    let
      first = builtins.head (builtins.sort builtins.lessThan cycle);
      turn =
        cycle:
        if builtins.head cycle == first then
          cycle
        else
          turn (builtins.tail cycle ++ [ (builtins.head cycle) ]);
    in
    turn cycle ++ [ first ];
in
map
  (
    cycle:
    "VMs would provide each other's networks: ${builtins.concatStringsSep " -> " cycle}; remove one of these providers"
  )
  (
    builtins.foldl' (known: cycle: if elem cycle known then known else known ++ [ cycle ]) [ ] (
      map (cycleFrom [ ]) (attrNames rest)
    )
  )
