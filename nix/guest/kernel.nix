# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A guest kernel that has just what a guest needs, built in: it compiles in minutes,
# loads no module, and boots without an initial RAM disk.
{
  bc,
  bison,
  elfutils,
  flex,
  lib,
  linux_6_12,
  perl,
  stdenv,
}:
let
  architecture =
    {
      x86_64-linux = {
        linux = "x86_64";
        fragment = ../../guest/kernel.config;
        image = "vmlinux";
        # The ELF file, without symbols: they are most of it.
        install = "strip --strip-all -o $out vmlinux";
      };
      aarch64-linux = {
        linux = "arm64";
        fragment = ./kernel-aarch64.config;
        image = "Image";
        install = "cp arch/arm64/boot/Image $out";
      };
    }
    .${stdenv.hostPlatform.system};
in
stdenv.mkDerivation {
  pname = "spectrum-guest-kernel";
  inherit (linux_6_12) src version;

  nativeBuildInputs = [
    bc
    bison
    flex
    perl
  ];
  # objtool, which checks the kernel during its build.
  buildInputs = [ elfutils ];

  postPatch = ''
    patchShebangs scripts tools
    find . -name 'Makefile*' -exec sed -i 's|/bin/pwd|pwd|g' {} +
  '';
  # The kernel's configuration decides how its code is hardened.
  hardeningDisable = [ "all" ];

  # The same bytes on every machine.
  env = {
    KBUILD_BUILD_HOST = "nix";
    KBUILD_BUILD_TIMESTAMP = "@0";
    KBUILD_BUILD_USER = "nix";
  };
  makeFlags = [ "ARCH=${architecture.linux}" ];
  enableParallelBuilding = true;

  configurePhase = ''
    runHook preConfigure
    cat ${architecture.fragment} ${./kernel.config} >fragment
    make $makeFlags KCONFIG_ALLCONFIG=fragment allnoconfig
    # kconfig drops an option without a word when one that it depends on is missing.
    if dropped=$(grep '^CONFIG_' fragment | grep -vxFf .config); then
      echo "kconfig dropped: $dropped" >&2
      exit 1
    fi
    runHook postConfigure
  '';
  buildFlags = [ architecture.image ];
  installPhase = ''
    runHook preInstall
    ${architecture.install}
    runHook postInstall
  '';
  dontFixup = true;

  meta = {
    description = "Linux for Spectrum guests: without modules and initial RAM disk";
    license = lib.licenses.gpl2Only;
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
