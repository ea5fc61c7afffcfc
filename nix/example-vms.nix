# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Three VMs: one that provides a network, one that uses it, and one with a shared
# directory.
{ pkgs, lib }:
let
  greeting = pkgs.writeTextDir "hello.txt" "Hello from a shared directory.\n";
in
lib.mkRunners {
  inherit pkgs;
  defaults = {
    # Runs on every machine. A host with KVM needs neither of these two.
    hypervisor = "qemu";
    accel = "tcg";
    memory = 128;
  };
  vms =
    builtins.mapAttrs
      (name: arguments: { vmDir = lib.mkVmDirectory ({ inherit pkgs name; } // arguments); })
      {
        netvm = { };
        appvm-online.providers = [ "netvm" ];
        appvm-hello.shares.greeting = "${greeting}";
      };
}
