# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the program refuses in the derivation that makes the configuration, before the
# switch: definitions of services.microvm-spectrum that evaluation lets pass.
{ pkgs }:
let
  runner = pkgs.derivation "runner";
  builtin = {
    kind = "builtin";
    name = "system";
    path = "/srv/vms";
  };
  partition = {
    kind = "user-partition";
    name = "user";
    path = "/srv/P";
  };
  partuuid = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11";
  sources = sources: says: {
    definition = { inherit sources; };
    inherit says;
  };
  refuses = definition: says: { inherit definition says; };
in
{
  one_path_for_two_sources = sources [
    builtin
    (builtin // { name = "again"; })
  ] "the sources system and again are the same place";
  two_sources_of_one_name = sources [
    builtin
    (partition // { name = "system"; })
  ] "two sources have the name system";
  a_source_with_path_and_partuuid = sources [
    (partition // { inherit partuuid; })
  ] "the source user has both a path and a partuuid";
  a_source_that_is_nowhere = sources [
    {
      kind = "builtin";
      name = "system";
    }
  ] "the source system has neither a path nor a partuuid";
  a_builtin_source_that_appears = sources [
    {
      kind = "builtin";
      name = "system";
      inherit partuuid;
    }
  ] "the source system has a partuuid, but is not a user-partition";
  a_partuuid_that_is_none = sources [
    {
      kind = "user-partition";
      name = "stick";
      partuuid = "sda1";
    }
  ] "source.partuuid: 'sda1' is not a PARTUUID";
  a_source_with_a_relative_path = sources [
    (builtin // { path = "vms"; })
  ] "the path of the source system is not absolute";
  a_source_with_a_bad_name = sources [
    (builtin // { name = "a/b"; })
  ] "source.name: a VM name cannot contain the character '/'";
  a_source_with_the_reserved_name = sources [
    (builtin // { name = "configuration"; })
  ] "the source name configuration is reserved";
  a_source_that_allows_what_is_no_path = sources [
    (builtin // { allow = [ "img" ]; })
  ] "source.allow: ";

  user_ids_that_end_before_they_begin = refuses {
    settings.uids = {
      first = 90000;
      last = 80000;
    };
  } "the user ids 90000 to 80000 are not a valid range for VMs";
  user_ids_of_the_system = refuses {
    settings.uids.first = 1000;
  } "the user ids 1000 to 89999 are not a valid range for VMs";
  the_user_id_of_root = refuses {
    vms.a = {
      inherit runner;
      uid = 0;
    };
  } "[vm.\"a\"] has the user id 0, which no VM can have";
  a_user_of_two_vms = refuses {
    vms.a = {
      inherit runner;
      uid = 70001;
    };
    sources = [ partition ];
    settings.vm."user/c".uid = 70001;
  } "[vm.\"a\"] and [vm.\"user/c\"] both have the user id 70001";

  a_vm_name_that_is_none = refuses {
    vms."a b" = { inherit runner; };
  } "[vm.\"a b\"] names no VM of a source: a VM name cannot contain the character ' '";
  settings_of_a_vm_in_two_places = refuses {
    vms.a = { inherit runner; };
    settings.vm.a.memory = 256;
  } "[vm.\"a\"] sets memory, which its runner has built in";
  settings_of_no_vm = refuses {
    sources = [
      builtin
      partition
    ];
    settings.vm.b.memory = 256;
  } "[vm.\"b\"] names no VM of a source";
  settings_of_an_unknown_source = refuses {
    sources = [ partition ];
    settings.vm."usr/a".memory = 256;
  } "[vm.\"usr/a\"] names no VM of a source";
  a_partition_that_starts_nothing = refuses {
    sources = [ partition ];
    settings.vm."user/a".autostart = true;
  } "[vm.\"user/a\"] sets autostart, but source 'user' does not allow it";
  more_memory_than_a_vm_can_have = refuses {
    settings.defaults.memory = 4294967295;
  } "[defaults] ";
  a_link_id_that_is_not_used = refuses {
    sources = [ partition ];
    settings.vm.b.links.netvm = "FFFF";
  } "vm.b.links.netvm: the link ids 0000 and ffff are not used";
  one_link_id_for_two_links = refuses {
    sources = [ partition ];
    settings.vm.a.links.netvm = "a546";
    settings.vm.b.links.netvm = "A546";
  } "[vm.\"a\"] and [vm.\"b\"] both declare the link id a546";
  one_device_twice = refuses {
    sources = [ partition ];
    settings.vm.b.devices = [
      "0000:01:00.0"
      "0000:01:00.0"
    ];
  } "[vm.\"b\"] lists the device 0000:01:00.0 twice";

  a_tool_with_a_relative_path = refuses {
    settings.tools.ip = "ip";
  } "the path of ip, ip, is not absolute";
  a_tool_that_is_none = refuses {
    settings.tools.virtiofs = "/bin/virtiofsd";
  } "tools.virtiofs: unknown variant `virtiofs`";
}
