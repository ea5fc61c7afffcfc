# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A kernel's source that builds in no time: its vmlinux is the one that the tests
# have built already, from Debian's source and the same configuration.
{ machine, build }:
{
  version = "6.12";
  src = build.runCommand "linux-source" { } ''
    mkdir -p $out/scripts $out/tools
    cat >$out/Makefile <<'END'
    allnoconfig:
    ''\tgrep '^CONFIG_' $(KCONFIG_ALLCONFIG) >.config
    vmlinux Image:
    ''\ttest -s .config
    ''\tinstall -D ${machine.kernel} vmlinux
    ''\tinstall -D ${machine.kernel} arch/arm64/boot/Image
    END
  '';
}
