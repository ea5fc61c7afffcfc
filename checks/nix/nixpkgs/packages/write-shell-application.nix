# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors
{ build }:
{ name, text }:
build.runCommand name
  {
    text = ''
      #!${build.stdenv.shell}
      set -o errexit -o nounset -o pipefail
    ''
    + text;
    passAsFile = [ "text" ];
    meta.mainProgram = name;
  }
  ''
    install -D --mode=755 "$textPath" $out/bin/${name}
    bash -n $out/bin/${name}
  ''
