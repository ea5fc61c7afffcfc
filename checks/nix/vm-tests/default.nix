# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Tests of whole NixOS machines, by name; they take KVM, and nested virtualisation
# where that is to be fast.
{
  linked-vms = ./linked-vms.nix;
  late-source = ./late-source.nix;
}
