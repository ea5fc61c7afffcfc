# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The program, its manual pages, and the unit files that call it.
{ lib, rustPlatform }:
let
  inherit (fromTOML (builtins.readFile ../Cargo.toml)) package;
in
rustPlatform.buildRustPackage {
  pname = package.name;
  inherit (package) version;

  # What cargo and the tests read, so that a change elsewhere builds nothing again.
  src = builtins.path {
    name = "${package.name}-source";
    path = ../.;
    filter =
      path: type:
      let
        inside = lib.removePrefix (toString ../. + "/") (toString path);
        top = builtins.head (builtins.split "/" inside);
      in
      builtins.elem top [
        "Cargo.lock"
        "Cargo.toml"
        "checks"
        "docs"
        "guest"
        "rustfmt.toml"
        "src"
      ]
      && !(type != "directory" && lib.hasSuffix ".nix" inside);
  };
  cargoLock.lockFile = ../Cargo.lock;

  # The others boot VMs or need a host's own tools: make check.
  cargoTestFlags = [
    "--lib"
    "--test=golden"
  ];

  postInstall = ''
    install -D --mode=644 --target-directory=$out/share/man/man1 docs/man/*.1
    install -D --mode=644 --target-directory=$out/share/man/man5 docs/man/*.5
    mkdir -p $out/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
    $out/bin/microvm-spectrum completion bash >$out/share/bash-completion/completions/microvm-spectrum
    $out/bin/microvm-spectrum completion zsh >$out/share/zsh/site-functions/_microvm-spectrum
    $out/bin/microvm-spectrum completion fish >$out/share/fish/vendor_completions.d/microvm-spectrum.fish
    install -D --target-directory=$out/share/microvm-spectrum/guest guest/*
    $out/bin/microvm-spectrum units --output $out/lib --program $out/bin/microvm-spectrum
  '';

  meta = {
    inherit (package) description;
    license = lib.licenses.eupl12;
    mainProgram = package.name;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
