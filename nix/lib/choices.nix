# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What there is to choose from, as the program has it in src/plan/mod.rs and
# src/config/settings.rs.
{
  hypervisors = [
    "cloud-hypervisor"
    "qemu"
  ];
  accelerators = [
    "auto"
    "kvm"
    "tcg"
  ];
}
