# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What Nixpkgs refuses of a derivation's attributes (its make-derivation.nix, and
# its check-meta.nix with checkMeta, as its own CI sets it). Each function returns a
# list of what is wrong.
{ lib, system }:
let
  inherit (builtins)
    attrNames
    concatMap
    elem
    filter
    isAttrs
    isBool
    isInt
    isList
    isPath
    isString
    ;
  listOf = check: value: isList value && builtins.all check value;

  inputs = [
    "buildInputs"
    "checkInputs"
    "depsBuildBuild"
    "nativeBuildInputs"
    "nativeCheckInputs"
    "propagatedBuildInputs"
    "propagatedNativeBuildInputs"
  ];
  isInput =
    value:
    value == null
    || lib.isDerivation value
    || isString value
    || isPath value
    || isList value && builtins.all isInput value;

  hardening = [
    "all"
    "bindnow"
    "format"
    "fortify"
    "fortify3"
    "pic"
    "relro"
    "stackclashprotection"
    "stackprotector"
    "strictoverflow"
    "trivialautovarinit"
    "zerocallusedregs"
  ];

  meta = {
    broken = isBool;
    changelog = isString;
    description = isString;
    homepage = isString;
    license = value: isAttrs value || isString value || listOf isAttrs value;
    longDescription = isString;
    mainProgram = isString;
    maintainers = listOf isAttrs;
    platforms = listOf isString;
    timeout = isInt;
  };
in
{
  attributes =
    attributes:
    let
      env = attributes.env or { };
      own = attributes.meta or { };
      without = removeAttrs attributes [
        "env"
        "meta"
        "passthru"
      ];
    in
    lib.optional (
      !(attributes ? name || attributes ? pname && attributes ? version)
    ) "it has neither a name nor pname and version"
    ++ map (name: "Dependency is not of a valid type: ${name}") (
      filter (name: !isInput (attributes.${name} or [ ])) inputs
    )
    ++ map (flag: "unsupported hardening flag ${flag}") (
      filter (flag: !elem flag hardening) (attributes.hardeningDisable or [ ])
    )
    ++ map (name: "env.${name} is an attribute of the derivation, too") (
      attrNames (builtins.intersectAttrs env without)
    )
    ++ map (name: "env.${name} is no string, boolean, integer or derivation") (
      filter (
        name:
        !(isString env.${name} || isBool env.${name} || isInt env.${name} || lib.isDerivation env.${name})
      ) (attrNames env)
    )
    ++ concatMap (
      name:
      if !meta ? ${name} then
        [ "meta.${name} is unknown" ]
      else
        lib.optional (!meta.${name} own.${name}) "meta.${name} is of another type"
    ) (attrNames own)
    ++ lib.optional (
      own ? platforms && !elem system own.platforms
    ) "it is not available on the requested hostPlatform ${system}";

  # Of rustPlatform.buildRustPackage and its importCargoLock.
  rustPackage =
    attributes:
    let
      lock = attributes.cargoLock or null;
    in
    lib.optional (
      lock == null && !attributes ? cargoHash && !attributes ? cargoVendorDir
    ) "cargoHash, cargoVendorDir, or cargoLock must be set"
    ++ lib.optional (attributes ? cargoSha256) "cargoSha256 is no longer supported"
    ++ map (name: "cargoLock.${name} is unknown") (
      filter (
        name:
        !elem name [
          "allowBuiltinFetchGit"
          "extraRegistries"
          "lockFile"
          "lockFileContents"
          "outputHashes"
        ]
      ) (attrNames (if lock == null then { } else lock))
    );

  # Of testers.runNixOSTest: these are the options of a test.
  test =
    test:
    map (name: "The option `${name}' does not exist") (
      filter (
        name:
        !elem name [
          "containers"
          "defaults"
          "enableOCR"
          "extraPythonPackages"
          "globalTimeout"
          "imports"
          "interactive"
          "meta"
          "name"
          "node"
          "nodes"
          "passthru"
          "qemu"
          "skipLint"
          "skipTypeCheck"
          "testScript"
        ]
      ) (attrNames test)
    )
    ++ lib.optional (!test ? name) "The option `name' was accessed but has no value defined"
    ++ lib.optional (
      !test ? testScript
    ) "The option `testScript' was accessed but has no value defined";

  orThrow =
    what: problems: value:
    if problems == [ ] then value else throw "${what}: ${lib.concatStringsSep "; " problems}";
}
