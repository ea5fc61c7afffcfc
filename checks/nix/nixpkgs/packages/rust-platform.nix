# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The machine's cargo, offline, with the crates that it has. What it has compiled
# for one build serves the next. It does not optimise, which would take minutes.
{
  lib,
  machine,
  build,
  tools,
}:
{
  buildRustPackage =
    {
      cargoLock ? null,
      cargoTestFlags ? [ ],
      doCheck ? true,
      postInstall ? "",
      ...
    }@attributes:
    let
      locked = (fromTOML (builtins.readFile cargoLock.lockFile)).package;
      inherit (attributes) pname;
      isLocked = builtins.any (package: package.name == pname) locked;
    in
    build.refuses.orThrow pname (build.refuses.rustPackage attributes) (
      assert isLocked;
      # importCargoLock would need to be told the hashes of others.
      assert builtins.all (package: lib.hasPrefix "registry+" (package.source or "registry+")) locked;
      build.stdenv.mkDerivation (
        builtins.removeAttrs attributes [ "cargoLock" ]
        // {
          inherit doCheck postInstall;
          nativeBuildInputs = (attributes.nativeBuildInputs or [ ]) ++ [
            tools.cargo
            tools.rustc
          ];
          env = {
            CARGO_BUILD_TARGET_DIR = machine.cargoTarget;
            CARGO_NET_OFFLINE = "true";
            CARGO_PROFILE_RELEASE_LTO = "off";
            CARGO_PROFILE_RELEASE_OPT_LEVEL = "0";
            CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS = "true";
          }
          // (attributes.env or { });
          cargoTests = lib.concatStringsSep " " cargoTestFlags;
          postPatch = ''
            export CARGO_HOME=$NIX_BUILD_TOP/cargo-home
            mkdir $CARGO_HOME
            ln -s ${machine.cargoRegistry} $CARGO_HOME/registry
          ''
          + (attributes.postPatch or "");
          buildPhase =
            attributes.buildPhase or ''
              cargo build --release --locked --message-format=json-render-diagnostics >messages.json
            '';
          checkPhase =
            attributes.checkPhase or ''
              cargo test --release --locked $cargoTests
            '';
          installPhase =
            attributes.installPhase or ''
              # Where another build at the same time has not put its own.
              executable=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' messages.json)
              install -D "$executable" $out/bin/${pname}
              runHook postInstall
            '';
        }
      )
    );
}
