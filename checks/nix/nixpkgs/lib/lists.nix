# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Lists.
{ }:
rec {
  inherit (builtins)
    all
    any
    concatLists
    concatMap
    elem
    elemAt
    filter
    foldl'
    genList
    groupBy
    head
    isList
    length
    map
    sort
    tail
    ;
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  toList = value: if builtins.isList value then value else [ value ];
  last = list: elemAt list (length list - 1);
  drop =
    count: list:
    if count >= length list then [ ] else genList (n: elemAt list (n + count)) (length list - count);
  imap1 = f: list: genList (n: f (n + 1) (elemAt list n)) (length list);
  unique = foldl' (known: value: if elem value known then known else known ++ [ value ]) [ ];
}
