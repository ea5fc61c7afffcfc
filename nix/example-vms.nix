# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Four VMs: one that provides a network, one that uses it, one with a shared
# directory, and one with windows.
{ pkgs, lib }:
let
  greeting = pkgs.writeTextDir "hello.txt" "Hello from a shared directory.\n";
  # Called on the guest's console: terminal &
  terminal = pkgs.writeShellApplication {
    name = "terminal";
    text = ''
      export LANG=C.UTF-8
      export FONTCONFIG_FILE=${pkgs.makeFontsConf { fontDirectories = [ pkgs.dejavu_fonts ]; }}
      exec ${pkgs.foot}/bin/foot /bin/sh
    '';
  };
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
        appvm-windows = {
          wayland = true;
          packages = [ terminal ];
        };
      };
}
