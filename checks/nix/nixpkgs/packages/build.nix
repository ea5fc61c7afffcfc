# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# stdenv.mkDerivation and what is made with it. As in Nixpkgs a build finds in PATH
# only the standard tools and what it names, so that what it forgets is missing.
{
  lib,
  machine,
  system,
}:
let
  inherit (machine) standard;
  refuses = import ./refuses.nix { inherit lib system; };

  own = [
    "buildInputs"
    "env"
    "meta"
    "passthru"
    "postPatch"
  ];

  bash = derivation {
    name = "bash";
    inherit system;
    builder = "/bin/sh";
    args = [
      "-ec"
      ''
        ${standard.mkdir} -p $out/bin
        ${standard.cp} ${standard.bash} $out/bin/bash
        ${standard.ln} -s bash $out/bin/sh
      ''
    ];
  };

  # Programs that every build of a kind has in PATH.
  links =
    name: programs:
    derivation {
      inherit name system;
      builder = "${bash}/bin/bash";
      links = lib.concatStringsSep "\n" (lib.mapAttrsToList (name: path: "${path} ${name}") programs);
      args = [
        "-euc"
        ''
          ${standard.mkdir} -p $out/bin
          while read -r path name; do ${standard.ln} -s $path $out/bin/$name; done <<<"$links"
        ''
      ];
    };
  tools = links "stdenv-tools" standard;
  compiler = links "stdenv-compiler" machine.compiler;

  # `path` is what every build has in PATH beside its inputs.
  mkDerivationWith =
    path: attributes:
    let
      name = refuses.orThrow (attributes.name or attributes.pname or "a derivation"
      ) (refuses.attributes attributes) (attributes.name or "${attributes.pname}-${attributes.version}");
      inputs = (attributes.nativeBuildInputs or [ ]) ++ (attributes.buildInputs or [ ]);
      drv = derivation (
        builtins.removeAttrs attributes own
        // (attributes.env or { })
        // {
          inherit name system;
          builder = "${bash}/bin/bash";
          args = [ ./build.bash ];
          PATH = lib.concatMapStringsSep ":" (input: "${input}/bin") (inputs ++ path);
          postPatch = attributes.postPatch or "";
        }
      );
    in
    drv
    // (attributes.passthru or { })
    // {
      inherit name;
      meta = attributes.meta or { };
      passthru = attributes.passthru or { };
      overrideAttrs = f: mkDerivationWith path (attributes // f attributes);
    }
    // lib.optionalAttrs (attributes ? pname) { inherit (attributes) pname version; };
in
rec {
  inherit refuses;
  stdenv = {
    mkDerivation = mkDerivationWith [
      compiler
      tools
    ];
    shell = "${bash}/bin/bash";
    buildPlatform = hostPlatform;
    inherit hostPlatform;
  };
  hostPlatform = {
    inherit system;
    canExecute = other: other.system == system;
    qemuArch = builtins.head (builtins.match "([^-]*)-linux" system);
  };

  runCommand =
    name: attributes: buildCommand:
    # Without a compiler, as Nixpkgs' stdenvNoCC.
    mkDerivationWith [ tools ] ({ inherit buildCommand name; } // attributes);

  writeText =
    name: text:
    if builtins.isString text then
      writeTextAt "" name text
    else
      throw "pkgs.writeText ${name}: The second argument should be a string, but it's a ${builtins.typeOf text} instead.";
  writeTextDir = path: text: writeTextAt "/${path}" (baseNameOf path) text;
  writeTextAt =
    place: name: text:
    runCommand name
      {
        inherit text;
        passAsFile = [ "text" ];
      }
      ''
        mkdir -p "$(dirname "$out${place}")"
        cp "$textPath" "$out${place}"
      '';
}
