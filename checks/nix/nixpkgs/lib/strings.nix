# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Strings.
{ }:
rec {
  inherit (builtins)
    concatStringsSep
    isString
    match
    replaceStrings
    stringLength
    substring
    toJSON
    ;
  concatStrings = concatStringsSep "";
  concatMapStrings = f: list: concatStrings (map f list);
  concatMapStringsSep =
    separator: f: list:
    concatStringsSep separator (map f list);
  makeBinPath = concatMapStringsSep ":" (package: "${package.bin or package.out or package}/bin");
  optionalString = condition: text: if condition then text else "";
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
  hasSuffix =
    suffix: text:
    let
      start = stringLength text - stringLength suffix;
    in
    start >= 0 && substring start (-1) text == suffix;
  hasInfix =
    part: text:
    let
      at =
        n:
        n <= stringLength text - stringLength part
        && (substring n (stringLength part) text == part || at (n + 1));
    in
    # What builtins.match says in the real one.
    if builtins.hasContext part then
      throw "the string '${part}' is not allowed to refer to a store path"
    else
      at 0;
  removePrefix =
    prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (-1) text else text;
  removeSuffix =
    suffix: text:
    if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
  stringToCharacters = text: builtins.genList (n: substring n 1 text) (stringLength text);
  escapeNixString = text: replaceStrings [ "$" ] [ "\\$" ] (builtins.toJSON text);
  escapeNixIdentifier =
    name: if match "[a-zA-Z_][a-zA-Z0-9_'-]*" name != null then name else escapeNixString name;
  escapeShellArg =
    value:
    let
      text = toString value;
    in
    if match "[[:alnum:],._+:@%/-]+" text != null then
      text
    else
      "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  isStringLike =
    value: isString value || builtins.isPath value || value ? outPath || value ? __toString;
  isStorePath =
    value:
    isStringLike value && match "${builtins.storeDir}/[0-9a-z]{32}-[^/]+" (toString value) != null;
}
