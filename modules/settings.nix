# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The settings that a VM can have, by their names in the configuration file.
# Those that are null are not in it.
{ lib }:
let
  inherit (lib) mkOption types;
  setting =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
  inherit (import ../nix/lib/choices.nix) hypervisors accelerators;
  linkId = types.strMatching "[0-9a-fA-F]{4}";
  byte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  port = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9][0-9]|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})";
  portForward = types.strMatching "${byte}\\.${byte}\\.${byte}\\.${byte}:${port}:${port}(/udp)?";
  # The largest number stands for no user.
  guestIds = {
    guest-uid = setting (types.ints.between 0 4294967294) 1000 ''
      The user of the guest that owns there what the owner of a shared directory owns on the host; when null, root.
    '';
    guest-gid = setting (types.ints.between 0 4294967294) 1000 ''
      The group of the guest that owns there what the group of a shared directory owns on the host; when null, root's.
    '';
  };
  pciAddress = types.strMatching "[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]";
in
guestIds
// {
  hypervisor =
    setting (types.enum hypervisors) "qemu"
      "The hypervisor that runs it; when null, Cloud Hypervisor.";
  memory = setting types.ints.positive 512 "The guest's memory in MiB; when null, 1024.";
  vcpus = setting types.ints.positive 2 "The number of virtual processors; when null, 1.";
  accel = setting (types.enum accelerators) "kvm" ''
    What executes the guest's instructions under QEMU; when null, KVM if a short probe on the host shows that it works.
  '';
  autostart = setting types.bool true "Whether it starts with the host; when null, it does not.";
  restart-if-changed = setting types.bool true ''
    Whether it is restarted when it is no longer what it was started with; when null, it is left alone until its next start.
  '';
  cluster = setting types.bool true ''
    Whether the cluster decides which host runs it (`docs/cluster.md`); when null, that of its source, or else this host.
  '';
  wayland-user = setting types.str "alice" ''
    The user whose session shows its windows, by name; when null, that of its source, or else none. Each session has the
    user service `microvm-spectrum-wayland`.
  '';
  wayland =
    setting
      (types.enum [
        "security-context"
        "without-security-context"
      ])
      "without-security-context"
      "What the compositor that shows its windows must have; when null, security contexts.";
  wayland-memory =
    setting types.ints.positive 512
      "The address space for the buffers of its windows in MiB, a power of two; when null, 256.";
  link-ports = setting types.ints.u8 16 "For how many clients it can provide networks; when null, 8.";
  uid =
    setting types.ints.unsigned 70001
      "Its user id; when null, one of `services.microvm-spectrum.settings.uids`, which it keeps.";
  links = mkOption {
    type = types.attrsOf linkId;
    default = { };
    example.netvm = "a546";
    description = ''
      The ids of links to network providers, four hexadecimal digits by the provider's name, instead of derived ones.
    '';
  };
  uplink = setting types.bool true ''
    Whether it is connected to the host's network, by passt; when null, it is not. Its guest reaches what the host reaches.
  '';
  ports = mkOption {
    type = types.listOf portForward;
    default = [ ];
    example = [ "127.0.0.1:8080:80" ];
    description = ''
      Ports of the host that lead to its guest: `ADDRESS:HOSTPORT:GUESTPORT`, with `/udp` behind it for UDP. They need
      `uplink`.
    '';
  };
  shares = mkOption {
    type = types.attrsOf (types.submodule { options = guestIds; });
    default = { };
    example.documents.guest-uid = 1000;
    description = "The users and groups of the guest for single shared directories, by tag.";
  };
  devices = mkOption {
    type = types.listOf pciAddress;
    default = [ ];
    example = [ "0000:01:00.0" ];
    description = "PCI devices of the host that it gets, by their full addresses, as `lspci -D` shows them.";
  };
}
