# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# A host that uses everything.
{ pkgs, ... }:
{
  services.microvm-spectrum = {
    enable = true;
    sources = [
      {
        kind = "builtin";
        name = "system";
        path = "/srv/vms";
        autostart = false;
      }
      {
        kind = "user-partition";
        name = "user";
        partuuid = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11";
        allow = [ "/usr/img=/srv/spectrum/img" ];
        autostart = true;
        wayland-user = "alice";
      }
    ];
    settings = {
      defaults = {
        memory = 512;
        hypervisor = "qemu";
      };
      vm."user/appvm-lynx" = {
        vcpus = 2;
        autostart = true;
        accel = "auto";
        links.netvm = "a546";
        devices = [ "0000:01:00.0" ];
        uplink = true;
        ports = [
          "127.0.0.1:8080:80"
          "0.0.0.0:53:53/udp"
        ];
        guest-uid = 1000;
        shares.documents.guest-gid = 100;
        uid = 70001;
        link-ports = 4;
        wayland = "without-security-context";
      };
      uids.first = 71000;
      tools.ip = "/run/current-system/sw/bin/ip";
    };
    vms = {
      netvm = {
        vmDir = ./vms/netvm;
        linkPorts = 16;
        uplink = true;
        ports = [ "127.0.0.1:8081:80" ];
        uid = 70002;
      };
      appvm-hello = {
        vmDir = ./vms/appvm-hello;
        autostart = true;
        restartIfChanged = true;
        waylandUser = "bob";
        linkIds.netvm = "0001";
        devices = [ "0000:02:00.0" ];
      };
      elsewhere.runner = pkgs.derivation "vm-elsewhere";
    };
  };
}
