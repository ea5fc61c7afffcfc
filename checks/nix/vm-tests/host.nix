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

  # The machine's store is shared with it over 9p. QEMU for tests (qemu_test, which
  # runNixOSTest takes by default) shows its files as root's; any other would show
  # them as the builder's, and what root starts must be root's.
  virtualisation = {
    memorySize = 2048;
    cores = 2;
  };
}
