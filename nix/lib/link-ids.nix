# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Link ids and addresses, as the program has them in src/link/id.rs.
#
# In Nix nothing is remembered from one evaluation to the next, so a link whose id
# is taken cannot have the next free one, as on a host with leases: adding a VM
# would change another's address. If two links have one id, the user declares another for one of them.
let
  digits = "0123456789abcdef";
  digit = n: builtins.substring n 1 digits;
  div = a: b: a / b;
  mod = a: b: a - b * (a / b);
in
rec {
  number = id: (fromTOML "n = 0x${id}").n;

  ofNumber =
    n: digit (div n 4096) + digit (mod (div n 256) 16) + digit (mod (div n 16) 16) + digit (mod n 16);

  # The first two bytes of the SHA-256 of both names; 0000 and ffff are not used.
  derive =
    client: provider:
    let
      first = builtins.substring 0 4 (builtins.hashString "sha256" "${client}\n${provider}");
    in
    if first == "0000" || first == "ffff" then "0001" else first;

  # An id in the form in which the program writes it.
  normal = id: builtins.replaceStrings [ "A" "B" "C" "D" "E" "F" ] [ "a" "b" "c" "d" "e" "f" ] id;

  check =
    option: id:
    if !builtins.isString id || builtins.match "[0-9a-fA-F]{4}" id == null then
      [
        ''${option} cannot be ${builtins.toJSON id}: a link id is four hexadecimal digits in quotes, such as "a546"''
      ]
    else if normal id == "0000" || normal id == "ffff" then
      [ "${option} cannot be ${builtins.toJSON id}: the link ids 0000 and ffff are not used" ]
    else
      [ ];

  # The next id after `id` that is none of those in `taken`.
  nextFree =
    taken: id:
    let
      next = mod (number id + 1) 65536;
      found = ofNumber next;
    in
    if next == 0 || next == 65535 || builtins.elem found taken then nextFree taken found else found;

  # Everything about one link.
  link = client: provider: id: {
    inherit client provider id;
    clientMac = "0A:B3:EC:00:${upperPair 0 id}:${upperPair 2 id}";
    providerMac = "0A:B3:EC:80:${upperPair 0 id}:${upperPair 2 id}";
    clientIpv4 = "100.64.${toString (div (number id) 256)}.${toString (mod (number id) 256)}";
    clientTap = "vmc-${id}";
    providerTap = "vmr-${id}";
    bridge = "vmb-${id}";
  };

  upperPair =
    start: id:
    builtins.replaceStrings [ "a" "b" "c" "d" "e" "f" ] [ "A" "B" "C" "D" "E" "F" ] (
      builtins.substring start 2 id
    );

  # What is wrong with links that have one id. `set` begins the advice to give the last
  # one of them another: "set" and the option that decides it, for example.
  collisions =
    set: links:
    let
      ids = map (link: link.id) links;
      groups = builtins.groupBy (link: link.id) links;
      told = link: "${link.client} -> ${link.provider}";
      clash =
        id:
        let
          group = groups.${id};
          last = builtins.elemAt group (builtins.length group - 1);
        in
        if builtins.length group < 2 then
          [ ]
        else
          [
            ''the links ${builtins.concatStringsSep " and " (map told group)} have the same id ${id}; ${set last} = "${nextFree ids id}"''
          ];
    in
    builtins.concatMap clash (builtins.attrNames groups);
}
