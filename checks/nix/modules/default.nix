# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Tests of the host module, each with what it expects and what is there:
# `nix-instantiate --eval --strict --json` of this shows all of them.
#
# `libPath` is another lib than the stand-in, such as nixpkgs.lib.
{
  libPath ? "",
}:
let
  lib = if libPath == "" then import ../nixpkgs/lib else import (/. + libPath);
  evaluate = import ./evaluate.nix { inherit lib; };
  pkgs = import ./pkgs.nix { inherit lib; };
  arguments = { inherit lib evaluate pkgs; };
  errors = import ./errors.nix arguments;
  plain = (evaluate [ { services.microvm-spectrum.enable = true; } ]).config;
in
{
  tests =
    import ./defines.nix arguments
    // import ./refuses.nix arguments
    // import ./documents.nix arguments;
  # Configurations that end in an error of Nix itself, one by one.
  inherit errors;
  errorMessages = lib.mapAttrs (_: error: error.message) errors;
  # Configurations that the program refuses, with what it says.
  refusedByTheProgram = lib.mapAttrs (
    _: case:
    case
    // {
      text =
        (evaluate [
          {
            services.microvm-spectrum = {
              enable = true;
            }
            // case.definition;
          }
        ]).config.services.microvm-spectrum.configFile.unchecked.text;
    }
  ) (import ./refused-by-the-program.nix { inherit pkgs; });
  # What the stand-in has and this lib does not.
  ofTheStandInAlone =
    let
      standIn = import ../nixpkgs/lib;
      beside =
        path: mine: theirs:
        lib.concatMap (
          name:
          if !theirs ? ${name} then
            [ "${path}.${name}" ]
          else if path == "lib" && lib.isAttrs mine.${name} then
            beside "lib.${name}" mine.${name} theirs.${name}
          else
            [ ]
        ) (lib.attrNames mine);
    in
    beside "lib" standIn lib;
  # Compared with files, and with the program.
  rich = (evaluate [ ./rich.nix ]).config.services.microvm-spectrum.configFile.unchecked.text;
  reference = import ./reference.nix {
    inherit lib;
  } (evaluate [ ]).options.services.microvm-spectrum;
  # Files of the package's lib that the module names one by one.
  files =
    let
      text = value: builtins.unsafeDiscardStringContext "${value}";
      prefix = text "${pkgs.microvm-spectrum}/lib/";
      sources = map (file: text file.source) (lib.attrValues plain.environment.etc);
    in
    map (lib.removePrefix prefix) (lib.filter (lib.hasPrefix prefix) sources);
  units =
    let
      inherit (plain) systemd;
    in
    {
      services = lib.mapAttrs (_: unit: { inherit (unit) wantedBy; }) systemd.services;
      paths = lib.mapAttrs (_: unit: { inherit (unit) wantedBy; }) systemd.paths;
      targets = lib.mapAttrs (_: unit: { inherit (unit) wantedBy; }) systemd.targets;
    };
  # The units that a rebuild does not restart.
  leftAlone = lib.concatMap (
    dropIn: lib.optionals (dropIn ? path) (builtins.match ".*/(.*).d/.*" dropIn.path)
  ) plain.systemd.packages;
  inherit ((evaluate [ ]).config.services.microvm-spectrum.settings) uids;
}
