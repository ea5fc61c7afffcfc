# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A machine with the host module, which all tests begin with.
{ self }:
{
  imports = [ self.nixosModules.default ];

  services.microvm-spectrum = {
    enable = true;
    # The guests run in a guest: without nested KVM, which not every machine has.
    settings.defaults = {
      hypervisor = "qemu";
      accel = "tcg";
      memory = 128;
    };
  };

  virtualisation = {
    memorySize = 2048;
    cores = 2;
  };
}
