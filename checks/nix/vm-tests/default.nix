# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Tests of whole NixOS machines, by name; they need KVM, and are faster with nested
# virtualisation.
{
  cloud-hypervisor = ./cloud-hypervisor.nix;
  late-source = ./late-source.nix;
  linked-vms = ./linked-vms.nix;
  switch = ./switch.nix;
}
