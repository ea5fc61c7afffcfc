# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Types of options: what values they take, and how several definitions merge.
{ lib }:
let
  inherit (lib)
    all
    concatMap
    concatStringsSep
    elem
    head
    isAttrs
    isInt
    isList
    isString
    isStringLike
    length
    mapAttrs
    mergeDefinitions
    mergeEqualOption
    mergeOneOption
    ;

  mkOptionType =
    {
      name,
      description ? name,
      # How the description fits into that of another type.
      descriptionClass ? "noun",
      check ? _: true,
      merge ? mergeEqualOption,
      getSubOptions ? _: { },
      # What the option is without any definition.
      emptyValue ? { },
      nestedTypes ? { },
    }:
    {
      _type = "option-type";
      inherit
        name
        description
        descriptionClass
        check
        merge
        getSubOptions
        emptyValue
        nestedTypes
        ;
    };

  phrase =
    classes: type:
    if elem type.descriptionClass classes then type.description else "(${type.description})";
  # One value of a collection, from those definitions that have it.
  mergeItem =
    loc: type: defs:
    (mergeDefinitions loc type defs).mergedValue;
  show =
    value:
    if isString value then
      ''"${value}"''
    else if builtins.isBool value then
      lib.boolToString value
    else
      toString value;
  attrsOfWith =
    kind: defined: type:
    mkOptionType {
      name = "attrsOf";
      description = "${kind} of ${phrase [ "noun" "composite" ] type}";
      descriptionClass = "composite";
      check = isAttrs;
      merge =
        loc: defs:
        mapAttrs (_: item: item.mergedValue) (
          defined null (
            builtins.zipAttrsWith (name: mergeDefinitions (loc ++ [ name ]) type) (
              concatMap (
                def:
                map (mapAttrs (
                  _: value: {
                    inherit (def) file;
                    inherit value;
                  }
                )) (lib.pushDownProperties def.value)
              ) defs
            )
          )
        );
      getSubOptions = prefix: type.getSubOptions (prefix ++ [ "<name>" ]);
      emptyValue.value = { };
      nestedTypes.elemType = type;
    };
in
rec {
  inherit mkOptionType;
  isType = type: value: value._type or null == type;
  isOptionType = isType "option-type";

  raw = mkOptionType {
    name = "raw";
    description = "raw value";
    merge = mergeOneOption;
  };
  unspecified = mkOptionType {
    name = "unspecified";
    description = "unspecified value";
  };
  anything = mkOptionType {
    name = "anything";
    merge =
      loc: defs:
      if all (def: isAttrs def.value && !(def.value ? type)) defs then
        (lazyAttrsOf anything).merge loc defs
      else
        mergeEqualOption loc defs;
  };
  bool = mkOptionType {
    name = "bool";
    description = "boolean";
    check = builtins.isBool;
  };
  int = mkOptionType {
    name = "int";
    description = "signed integer";
    check = isInt;
  };
  float = mkOptionType {
    name = "float";
    description = "floating point number";
    check = builtins.isFloat;
  };
  ints =
    let
      between =
        lowest: highest:
        addCheck int (value: value >= lowest && value <= highest)
        // {
          name = "intBetween";
          description = "integer between ${toString lowest} and ${toString highest} (both inclusive)";
        };
      unsignedOf =
        bits: highest:
        between 0 highest
        // {
          name = "unsignedInt${toString bits}";
          description = "${toString bits} bit unsigned integer; between 0 and ${toString highest} (both inclusive)";
        };
    in
    {
      inherit between;
      positive = addCheck int (value: value > 0) // {
        name = "positiveInt";
        description = "positive integer, meaning >0";
        descriptionClass = "nonRestrictiveClause";
      };
      unsigned = addCheck int (value: value >= 0) // {
        name = "unsignedInt";
        description = "unsigned integer, meaning >=0";
        descriptionClass = "nonRestrictiveClause";
      };
      u8 = unsignedOf 8 255;
      u16 = unsignedOf 16 65535;
    };
  str = mkOptionType {
    name = "str";
    description = "string";
    check = isString;
  };
  strMatching =
    pattern:
    mkOptionType {
      name = "strMatching ${lib.strings.escapeNixString pattern}";
      description = "string matching the pattern ${pattern}";
      check = value: isString value && builtins.match pattern value != null;
    };
  separatedString =
    separator:
    mkOptionType {
      name = "separatedString";
      description =
        if separator == "" then
          "Concatenated string"
        else
          "strings concatenated with ${builtins.toJSON separator}";
      check = isString;
      merge = _: defs: concatStringsSep separator (map (def: def.value) defs);
    };
  lines = separatedString "\n";
  path = mkOptionType {
    name = "path";
    description = "absolute path";
    check = value: isStringLike value && builtins.substring 0 1 (toString value) == "/";
  };
  package = mkOptionType {
    name = "package";
    check = value: lib.isDerivation value || lib.isStorePath value;
    merge = mergeOneOption;
  };
  enum =
    values:
    mkOptionType {
      name = "enum";
      description =
        if length values == 1 then
          "value ${show (head values)} (singular enum)"
        else
          "one of ${lib.concatMapStringsSep ", " show values}";
      descriptionClass = if length values < 2 then "noun" else "conjunction";
      check = value: elem value values;
    };

  nullOr =
    type:
    mkOptionType {
      name = "nullOr";
      description = "null or ${phrase [ "noun" "conjunction" ] type}";
      descriptionClass = "conjunction";
      check = value: value == null || type.check value;
      merge =
        loc: defs:
        if all (def: def.value == null) defs then
          null
        else if lib.any (def: def.value == null) defs then
          throw "The option `${lib.showOption loc}' is defined both null and not null, in ${
            lib.showFiles (map (def: def.file) defs)
          }."
        else
          type.merge loc defs;
      inherit (type) getSubOptions;
      emptyValue.value = null;
      nestedTypes.elemType = type;
    };
  either =
    one: other:
    mkOptionType {
      name = "either";
      description = "${phrase [ "noun" "conjunction" ] one} or ${
        phrase [ "noun" "conjunction" "composite" ] other
      }";
      descriptionClass = "conjunction";
      check = value: one.check value || other.check value;
      merge =
        loc: defs:
        if all (def: one.check def.value) defs then
          one.merge loc defs
        else if all (def: other.check def.value) defs then
          other.merge loc defs
        else
          mergeOneOption loc defs;
    };
  oneOf = types: lib.foldl' either (head types) (lib.tail types);
  listOf =
    type:
    mkOptionType {
      name = "listOf";
      description = "list of ${phrase [ "noun" "composite" ] type}";
      descriptionClass = "composite";
      check = isList;
      merge =
        loc: defs:
        map (item: item.mergedValue) (
          lib.filter (item: item.isDefined) (
            lib.concatLists (
              lib.imap1 (
                n: def:
                lib.imap1 (
                  m: value:
                  mergeDefinitions (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) type [
                    {
                      inherit (def) file;
                      inherit value;
                    }
                  ]
                ) def.value
              ) defs
            )
          )
        );
      getSubOptions = prefix: type.getSubOptions (prefix ++ [ "*" ]);
      emptyValue.value = [ ];
      nestedTypes.elemType = type;
    };
  attrsOf = attrsOfWith "attribute set" (_: lib.filterAttrs (_: item: item.isDefined));
  # Does not look at a value to know whether it is there.
  lazyAttrsOf = attrsOfWith "lazy attribute set" (_: items: items);
  attrs = mkOptionType {
    name = "attrs";
    description = "attribute set";
    check = isAttrs;
    merge = _: lib.foldl' (all: def: all // def.value) { };
    emptyValue.value = { };
  };
  functionTo =
    type:
    mkOptionType {
      name = "functionTo";
      description = "function that evaluates to a(n) ${phrase [ "noun" "composite" ] type}";
      descriptionClass = "composite";
      check = lib.isFunction;
      merge =
        loc: defs: argument:
        mergeItem (loc ++ [ "<function body>" ]) type (
          map (def: {
            inherit (def) file;
            value = def.value argument;
          }) defs
        );
    };
  submodule = modules: submoduleWith { modules = lib.toList modules; };
  submoduleWith =
    {
      modules,
      specialArgs ? { },
    }:
    let
      evaluate =
        loc: name: more:
        lib.evalModules {
          inherit specialArgs;
          prefix = loc;
          modules = modules ++ [ { _module.args.name = lib.mkOptionDefault name; } ] ++ more;
        };
      inherit (evaluate [ ] "‹name›" [ ]) freeform;
    in
    mkOptionType {
      name = "submodule";
      description =
        if freeform == null then
          "submodule"
        else
          "open submodule of ${phrase [ "noun" "composite" ] freeform}";
      # In brackets within every other.
      descriptionClass = "clause";
      check = value: isAttrs value || lib.isFunction value || builtins.isPath value;
      merge =
        loc: defs:
        (evaluate loc (lib.last loc) (
          map (
            { file, value }:
            if isAttrs value then
              {
                _file = file;
                config = value;
              }
            else
              {
                _file = file;
                imports = [ value ];
              }
          ) defs
        )).config;
      getSubOptions =
        prefix:
        let
          inherit (evaluate prefix "‹name›" [ ]) options freeform;
        in
        options
        // lib.optionalAttrs (freeform != null) { _freeformOptions = freeform.getSubOptions prefix; };
      emptyValue.value = { };
    };
  addCheck = type: check: type // { check = value: type.check value && check value; };
}
