# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Declaring options, merging what has no type of its own, and documenting them.
{ lib }:
let
  inherit (lib) concatMap concatMapStrings optionalAttrs;
  showPart =
    part: if lib.hasPrefix "<" part || part == "*" then part else lib.strings.escapeNixIdentifier part;
in
rec {
  isOption = lib.isType "option";
  mkOption = attributes: attributes // { _type = "option"; };
  mkEnableOption =
    name:
    mkOption {
      type = lib.types.bool;
      default = false;
      example = true;
      description = "Whether to enable ${name}.";
    };
  mkPackageOption =
    pkgs: name:
    { example }:
    mkOption {
      type = lib.types.package;
      default = pkgs.${name} or (throw "${name} cannot be found in pkgs");
      defaultText = literalExpression "pkgs.${name}";
      description = "The ${name} package to use.";
      example = literalExpression example;
    };

  literalExpression = text: {
    _type = "literalExpression";
    inherit text;
  };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };

  showOption = loc: lib.concatStringsSep "." (map showPart loc);
  showFiles = lib.concatMapStringsSep " and " (file: "`${file}'");
  showDefs = concatMapStrings (
    def: "\n- In `${toString def.file}': ${lib.generators.toPretty { } def.value}"
  );

  mergeOneOption =
    loc: defs:
    if lib.length defs == 1 then
      (lib.head defs).value
    else
      throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.\nDefinition values:${showDefs defs}";
  mergeEqualOption =
    loc: defs:
    if lib.all (def: def.value == (lib.head defs).value) defs then
      (lib.head defs).value
    else
      throw "The option `${showOption loc}' has conflicting definition values:${showDefs defs}";

  # Every option beneath `options`, as documentation wants it.
  optionAttrSetToDocList =
    options:
    concatMap (
      option:
      let
        visible = option.visible or true;
        subOptions = option.type.getSubOptions option.loc;
      in
      [
        (
          {
            inherit (option) loc;
            name = showOption option.loc;
            description = option.description or null;
            internal = option.internal or false;
            visible = visible == true || visible == "shallow";
            readOnly = option.readOnly or false;
            type = option.type.description;
          }
          // optionalAttrs (option ? example) { example = renderOptionValue option.example; }
          // optionalAttrs (option ? defaultText || option ? default) {
            default = renderOptionValue (option.defaultText or option.default);
          }
        )
      ]
      ++ (if visible == true && subOptions != { } then optionAttrSetToDocList subOptions else [ ])
    ) (lib.collect isOption options);
  renderOptionValue =
    value:
    if value ? _type && value ? text then
      value
    else
      literalExpression (lib.generators.toPretty { } value);
}
