# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The module system: collects modules, puts together their options, and merges
# what they define.
{ lib }:
let
  inherit (lib)
    attrNames
    concatMap
    filter
    head
    isAttrs
    isFunction
    isOption
    length
    mapAttrs
    optional
    showOption
    types
    unique
    ;
  property = type: value: isAttrs value && value._type or null == type;
  priorityOfDefault = 1500;
  priorityOfDefinition = 100;
  orderOfDefinition = 1000;

  # The options that every evaluation has.
  ownOptions = {
    _file = "lib/modules.nix";
    options._module = {
      args = lib.mkOption {
        type = types.lazyAttrsOf types.raw;
        default = { };
        internal = true;
        description = "Further arguments of modules.";
      };
      check = lib.mkOption {
        type = types.bool;
        default = true;
        internal = true;
        description = "Whether a definition without an option is an error.";
      };
      freeformType = lib.mkOption {
        type = types.nullOr types.raw;
        default = null;
        internal = true;
        description = "The type of what has no option.";
      };
    };
  };

  structural = [
    "_class"
    "_file"
    "config"
    "disabledModules"
    "freeformType"
    "imports"
    "key"
    "meta"
    "options"
  ];
  # A module in its one form: `{ key, file, imports, options, config }`.
  normalise =
    args: outerFile: module:
    let
      isFile = builtins.isPath module || builtins.isString module;
      loaded = if isFile then import module else module;
      wanted = builtins.functionArgs loaded;
      arguments = args // mapAttrs (name: _: args.${name} or args.config._module.args.${name}) wanted;
      value = if isFunction loaded then loaded arguments else loaded;
      structured = value ? config || value ? options;
      unknown = attrNames (removeAttrs value structural);
      freeform = lib.optionalAttrs (value ? freeformType) { _module.freeformType = value.freeformType; };
      own = if structured then value.config or { } else removeAttrs value structural;
      file = toString (value._file or (if isFile then module else outerFile));
    in
    if structured && unknown != [ ] then
      throw "Module `${file}' has an unsupported attribute `${head unknown}'. This is caused by introducing a top-level `config' or `options' attribute."
    else
      {
        inherit file;
        key = value.key or (if isFile then toString module else null);
        imports = value.imports or [ ];
        options = value.options or { };
        config =
          if freeform == { } then
            own
          else
            lib.mkMerge [
              freeform
              own
            ];
      };
  # All modules, those that are imported before those that import them; each file once.
  collect =
    args: modules:
    let
      walk =
        file: known: module:
        let
          this = normalise args file module;
          imported = lib.foldl' (walk this.file) known this.imports;
        in
        if this.key != null && lib.any (other: other.key == this.key) known then
          known
        else
          imported ++ [ this ];
    in
    lib.foldl' (walk "<unknown-file>") [ ] modules;

  pushDownProperties =
    value:
    if property "merge" value then
      concatMap pushDownProperties value.contents
    else if property "if" value then
      map (mapAttrs (_: lib.mkIf value.condition)) (pushDownProperties value.content)
    else if property "override" value then
      map (mapAttrs (_: lib.mkOverride value.priority)) (pushDownProperties value.content)
    else
      [ value ];
  discharge =
    value:
    if property "merge" value then
      concatMap discharge value.contents
    else if property "if" value then
      if value.condition then discharge value.content else [ ]
    else
      [ value ];

  # The definitions that count, without their properties, in their order.
  effective =
    defs:
    let
      discharged = concatMap (def: map (value: def // { inherit value; }) (discharge def.value)) defs;
      priority = def: if property "override" def.value then def.value.priority else priorityOfDefinition;
      highest = lib.foldl' (lowest: def: lib.min lowest (priority def)) 9999 discharged;
      counting = filter (def: priority def == highest) discharged;
      bare = map (
        def: def // { value = if property "override" def.value then def.value.content else def.value; }
      ) counting;
      order = def: if property "order" def.value then def.value.priority else orderOfDefinition;
      sorted = lib.sort (a: b: order a < order b) bare;
    in
    {
      inherit highest;
      values = map (
        def: def // { value = if property "order" def.value then def.value.content else def.value; }
      ) sorted;
    };
  mergeDefinitions =
    loc: type: defs:
    let
      inherit (effective defs) values highest;
      wrong = filter (def: !type.check def.value) values;
    in
    {
      inherit values highest;
      isDefined = values != [ ];
      mergedValue =
        if values == [ ] then
          type.emptyValue.value
            or (throw "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.")
        else if wrong != [ ] then
          throw "A definition for option `${showOption loc}' is not of type `${type.description}'. Definition values:${lib.options.showDefs wrong}"
        else
          type.merge loc values;
    };

  # An option with its value.
  evaluateOption =
    loc: declarations: defs:
    let
      declared = (head declarations).value;
      type = declared.type or types.unspecified;
      byDefault = optional (declared ? default) {
        file = (head declarations).file;
        value = lib.mkOverride priorityOfDefault declared.default;
      };
      merged = mergeDefinitions loc type (byDefault ++ defs);
      value =
        if declared.readOnly or false && length defs > 1 then
          throw "The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:${lib.options.showDefs defs}"
        else
          merged.mergedValue;
    in
    if length declarations > 1 then
      throw "The option `${showOption loc}' in `${(head declarations).file}' is already declared in ${
        lib.showFiles (map (declaration: declaration.file) (lib.tail declarations))
      }."
    else
      declared
      // {
        inherit loc type;
        value = (declared.apply or lib.id) value;
        inherit (merged) isDefined;
        highestPrio = merged.highest;
        definitions = map (def: def.value) merged.values;
        definitionsWithLocations = merged.values;
        files = map (def: def.file) merged.values;
        declarations = map (declaration: declaration.file) declarations;
      };

  # Options and values of a tree of declarations, and the definitions beside it.
  mergeTree =
    loc: declarations: defs:
    let
      flat = concatMap (
        def:
        map (value: {
          inherit (def) file;
          inherit value;
        }) (pushDownProperties def.value)
      ) defs;
      having =
        name: list:
        map (item: {
          inherit (item) file;
          value = item.value.${name};
        }) (filter (item: item.value ? ${name}) list);
      names = unique (concatMap (declaration: attrNames declaration.value) declarations);
      trees = lib.genAttrs names (
        name:
        let
          here = loc ++ [ name ];
          declared = having name declarations;
          defined = having name flat;
          options = filter (declaration: isOption declaration.value) declared;
        in
        if options == [ ] then
          mergeTree here declared defined
        else if length options == length declared then
          let
            option = evaluateOption here declared defined;
          in
          {
            options = option;
            config = option.value;
            unmatched = [ ];
          }
        else
          throw "The option `${showOption here}' in ${
            lib.showFiles (map (option: option.file) options)
          } has options beneath it."
      );
      undeclared = concatMap (
        def:
        map (name: {
          inherit (def) file;
          path = loc ++ [ name ];
          value = def.value.${name};
        }) (attrNames (removeAttrs def.value names))
      ) flat;
    in
    {
      options = mapAttrs (_: tree: tree.options) trees;
      config = mapAttrs (_: tree: tree.config) trees;
      unmatched = concatMap (name: trees.${name}.unmatched) names ++ undeclared;
    };

  evalModules =
    {
      modules,
      specialArgs ? { },
      prefix ? [ ],
    }:
    let
      args = {
        inherit config options lib;
      }
      // specialArgs;
      all = collect args ([ ownOptions ] ++ modules);
      tree =
        mergeTree prefix
          (map (module: {
            inherit (module) file;
            value = module.options;
          }) all)
          (
            map (module: {
              inherit (module) file;
              value = module.config;
            }) all
          );
      inherit (tree) options;
      freeform = tree.config._module.freeformType;
      depth = length prefix;
      beside = freeform.merge prefix (
        map (def: {
          inherit (def) file;
          value = lib.setAttrByPath (lib.drop depth def.path) def.value;
        }) tree.unmatched
      );
      # An option's own value is one, whatever is in it.
      withFreeform =
        options: free: own:
        free
        // mapAttrs (
          name: value:
          if isOption options.${name} then value else withFreeform options.${name} (free.${name} or { }) value
        ) own;
      config =
        if freeform == null then
          tree.config
        else
          withFreeform options (if tree.unmatched == [ ] then { } else beside) tree.config;
      wrong = head tree.unmatched;
    in
    {
      inherit options freeform;
      _module = tree.config._module;
      config =
        if freeform == null && tree.config._module.check && tree.unmatched != [ ] then
          throw "The option `${showOption wrong.path}' does not exist. Definition values:${lib.options.showDefs [ wrong ]}"
        else
          removeAttrs config [ "_module" ];
    };
in
{
  inherit evalModules mergeDefinitions pushDownProperties;
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOptionDefault = lib.mkOverride priorityOfDefault;
  mkDefault = lib.mkOverride 1000;
  mkForce = lib.mkOverride 50;
  mkOrder = priority: content: {
    _type = "order";
    inherit priority content;
  };
  mkBefore = lib.mkOrder 500;
  mkAfter = lib.mkOrder 1500;
  mkAssert =
    condition: message: content:
    if condition then content else throw message;
  setDefaultModuleLocation = file: module: {
    _file = file;
    imports = [ module ];
  };
}
