# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Which versions of Cloud Hypervisor VMs run under.
let
  # The first that stays when its guest ends, so that an end differs from a crash:
  # src/hypervisor/cloud_hypervisor.rs.
  oldest = "52";
  # "" where a package has no version, such as one made by hand: it is believed.
  versionOf = package: package.version or (builtins.parseDrvName package.name or "").version;
in
{
  isTooOld =
    package:
    let
      version = versionOf package;
    in
    version != "" && builtins.compareVersions version oldest < 0;

  # `place` is the argument or option that takes another package.
  problem =
    package: place:
    "Cloud Hypervisor ${versionOf package} is too old, VMs run under ${oldest} and later: take Nixpkgs from nixos-unstable, give another package with ${place}";
}
