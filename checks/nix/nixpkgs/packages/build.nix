# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# stdenv.mkDerivation and what is made with it. As in Nixpkgs a build finds in PATH
# only the standard tools and what it names, so that what it forgets is missing.
{
  lib,
  system,
}:
let
  own = [
    "buildInputs"
    "env"
    "meta"
    "passthru"
    "postPatch"
  ];

  # The standard environment's tools, by the Debian packages that have them.
  standard = derivation {
    name = "stdenv-tools";
    inherit system;
    builder = "/bin/bash";
    PATH = "/usr/bin:/bin";
    args = [
      "-euc"
      ''
        mkdir -p $out/bin
        for package in bash binutils-x86-64-linux-gnu coreutils diffutils findutils gawk mawk gcc gcc-12 grep gzip make sed tar xz-utils; do
          dpkg-query --listfiles $package 2>/dev/null || true
        done | sed -n 's|^\(/usr\)\?/bin/\([^/]*\)$|\2|p' | while read -r tool; do
          ln -sf /usr/bin/$tool $out/bin/''${tool#x86_64-linux-gnu-}
        done
        for tool in awk cc sh; do ln -sf /usr/bin/$tool $out/bin/; done
      ''
    ];
  };

  mkDerivation =
    attributes:
    let
      name = attributes.name or "${attributes.pname}-${attributes.version}";
      inputs = (attributes.nativeBuildInputs or [ ]) ++ (attributes.buildInputs or [ ]);
      drv = derivation (
        builtins.removeAttrs attributes own
        // (attributes.env or { })
        // {
          inherit name system;
          builder = "/bin/bash";
          args = [ ./build.bash ];
          PATH = lib.concatMapStringsSep ":" (input: "${input}/bin") (inputs ++ [ standard ]);
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
      overrideAttrs = f: mkDerivation (attributes // f attributes);
    }
    // lib.optionalAttrs (attributes ? pname) { inherit (attributes) pname version; };
in
rec {
  stdenv = {
    inherit mkDerivation;
    hostPlatform = {
      inherit system;
      qemuArch = builtins.head (builtins.match "([^-]*)-linux" system);
    };
  };

  runCommand =
    name: attributes: buildCommand:
    mkDerivation ({ inherit buildCommand name; } // attributes);

  writeText =
    name: text:
    runCommand name {
      inherit text;
      passAsFile = [ "text" ];
    } ''cp "$textPath" $out'';
}
