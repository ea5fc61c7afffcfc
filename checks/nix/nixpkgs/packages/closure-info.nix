# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The paths of closures, one a line.
{ runCommand }:
{ rootPaths }:
runCommand "closure-info"
  {
    exportReferencesGraph = builtins.concatLists (
      builtins.genList (n: [
        "graph-${toString n}"
        (builtins.elemAt rootPaths n)
      ]) (builtins.length rootPaths)
    );
  }
  ''
    mkdir $out
    grep -h '^/nix/store/' graph-* | grep -v '\.drv$' | sort -u >$out/store-paths
  ''
