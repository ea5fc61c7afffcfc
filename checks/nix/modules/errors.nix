# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What ends in an error of Nix itself, which is in words of lib's.
{ lib, evaluate, ... }:
let
  value =
    definition:
    (evaluate [
      {
        services.microvm-spectrum = {
          enable = true;
        }
        // definition;
      }
    ]).config;
  settings = definition: (value definition).services.microvm-spectrum.settings;
  vm = definition: (value { vms.a = definition; }).services.microvm-spectrum.vms.a;
in
{
  an_unknown_option = {
    value = (value { vm.a = { }; }).assertions;
    message = "The option `services.microvm-spectrum.vm' does not exist";
  };
  an_unknown_option_of_a_vm = {
    value = (vm { memroy = 5; }).memory;
    message = "The option `services.microvm-spectrum.vms.a.memroy' does not exist";
  };
  a_memory_that_is_no_number = {
    value = (settings { settings.defaults.memory = "lots"; }).defaults.memory;
    message = "A definition for option `services.microvm-spectrum.settings.defaults.memory' is not of type `null or (positive integer, meaning >0)'";
  };
  a_hypervisor_that_is_none = {
    value = (vm { hypervisor = "xen"; }).hypervisor;
    message = "A definition for option `services.microvm-spectrum.vms.a.hypervisor' is not of type `null or one of \"cloud-hypervisor\", \"qemu\"'";
  };
  an_unknown_table = {
    value = settings { settings.tols.ip = "/ip"; };
    message = "The option `services.microvm-spectrum.settings.tols' does not exist";
  };
  an_unknown_setting = {
    value = (settings { settings.vm.x.memroy = 5; }).vm.x.memory;
    message = "The option `services.microvm-spectrum.settings.vm.x.memroy' does not exist";
  };
  an_unknown_default = {
    value = (settings { settings.defaults.memroy = 5; }).defaults.memory;
    message = "The option `services.microvm-spectrum.settings.defaults.memroy' does not exist";
  };
  a_link_id_of_five_digits = {
    value = (vm { linkIds.netvm = "a5460"; }).linkIds.netvm;
    message = "A definition for option `services.microvm-spectrum.vms.a.linkIds.netvm' is not of type `string matching the pattern [0-9a-fA-F]{4}'";
  };
  a_short_PCI_address = {
    value = lib.head (vm { devices = [ "01:00.0" ]; }).devices;
    message = "A definition for option `services.microvm-spectrum.vms.a.devices.\"[definition 1-entry 1]\"' is not of type `string matching the pattern";
  };
  two_values_for_one_setting = {
    value =
      (evaluate [
        { services.microvm-spectrum.settings.defaults.memory = 1; }
        { services.microvm-spectrum.settings.defaults.memory = 2; }
      ]).config.services.microvm-spectrum.settings.defaults.memory;
    message = "The option `services.microvm-spectrum.settings.defaults.memory' has conflicting definition values";
  };
  what_is_computed_cannot_be_set = {
    value = (value { configFile = "/etc/mine.toml"; }).services.microvm-spectrum.configFile;
    message = "The option `services.microvm-spectrum.configFile' is read-only, but it's set multiple times";
  };
  a_kind_of_source_that_is_none = {
    value =
      (lib.head (value { sources = [ { kind = "disk"; } ]; }).services.microvm-spectrum.sources).kind;
    message = "is not of type `one of \"builtin\", \"user-partition\"'";
  };
}
