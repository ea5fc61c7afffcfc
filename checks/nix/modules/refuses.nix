# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the module refuses, in which words: each mistake gives just its own message.
{
  lib,
  evaluate,
  pkgs,
}:
let
  refuses = definition: messages: {
    expected = messages;
    actual = map (assertion: assertion.message) (
      lib.filter (assertion: !assertion.assertion)
        (evaluate [
          {
            services.microvm-spectrum = {
              enable = true;
            }
            // definition;
          }
        ]).config.assertions
    );
  };
  vms = vms: refuses { inherit vms; };
  sources = sources: refuses { inherit sources; };
  # A VM whose directory is built, so that its providers are what is said here.
  client = providers: {
    vmDir = pkgs.derivation "vm-dir";
    inherit providers;
  };
  runner = pkgs.derivation "runner";
  package =
    name: linkIds:
    pkgs.derivation name
    // {
      inherit linkIds;
      providers = lib.attrNames linkIds;
    };
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
  nameRule = "a name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin with . or -; rename it";
  long = lib.concatStrings (lib.genList (_: "x") 65);
in
{
  a_bad_vm_name = vms { "a b" = { inherit runner; }; } [
    "services.microvm-spectrum.vms.\"a b\": ${nameRule}"
  ];
  a_vm_name_that_begins_with_a_dot = vms { ".a" = { inherit runner; }; } [
    "services.microvm-spectrum.vms.\".a\": ${nameRule}"
  ];
  a_vm_name_that_is_too_long = vms { ${long} = { inherit runner; }; } [
    "services.microvm-spectrum.vms.${long}: ${nameRule}"
  ];
  a_vm_name_as_long_as_can_be = vms { ${lib.removePrefix "x" long} = { inherit runner; }; } [ ];

  both_vmDir_and_runner = vms {
    a = {
      inherit runner;
      vmDir = ./vms/netvm;
    };
  } [ "services.microvm-spectrum.vms.a has both vmDir and runner: keep one of them" ];
  neither_vmDir_nor_runner = vms { a.memory = 5; } [
    "services.microvm-spectrum.vms.a has neither vmDir nor runner: set one of them"
  ];

  settings_beside_a_runner =
    vms
      {
        a = {
          inherit runner;
          memory = 256;
          vcpus = 2;
          accel = "kvm";
          hypervisor = "qemu";
          linkIds.netvm = "a546";
          linkPorts = 3;
          devices = [ "0000:01:00.0" ];
          shares = [ ];
          providers = [ ];
          allow."/usr/img" = "/srv/img";
          # These apply.
          autostart = true;
          uid = 70001;
          restartIfChanged = false;
        };
      }
      [
        "services.microvm-spectrum.vms.a has a runner, which decides about accel and allow and devices and hypervisor and linkIds and linkPorts and memory and providers and shares and vcpus by itself: remove that here, and build the runner with it"
      ];
  settings_of_a_vm_in_two_places =
    refuses
      {
        vms.a = { inherit runner; };
        settings.vm.a.memory = 256;
      }
      [
        "services.microvm-spectrum.settings.vm.a sets memory for a VM of services.microvm-spectrum.vms: set it there"
      ];
  host_settings_of_a_vm_in_two_places = refuses {
    vms.a = { inherit runner; };
    settings.vm.a.autostart = true;
  } [ ];

  providers_of_a_directory_that_is_built = vms { a.vmDir = pkgs.derivation "vm-dir"; } [
    "services.microvm-spectrum.vms.a: the vmDir is built, and is not read before; set providers to the names in its providers/net, [ ] for none"
  ];
  providers_of_a_directory_in_what_is_built = vms { a.vmDir = "${pkgs.derivation "vms"}/a"; } [
    "services.microvm-spectrum.vms.a: the vmDir is built, and is not read before; set providers to the names in its providers/net, [ ] for none"
  ];
  an_old_cloud_hypervisor =
    let
      told =
        definition:
        map (assertion: assertion.message)
          (evaluate [
            {
              _module.args.pkgs = lib.mkForce (
                pkgs
                // {
                  cloud-hypervisor = pkgs.derivation "cloud-hypervisor-50.0";
                }
              );
              services.microvm-spectrum = {
                enable = true;
                sources = [
                  {
                    kind = "builtin";
                    name = "system";
                    path = "/srv/vms";
                  }
                ];
              }
              // definition;
            }
          ]).config.assertions;
    in
    {
      expected = [
        [
          "services.microvm-spectrum.sources: Cloud Hypervisor 50.0 is too old, VMs run under 52 and later: take Nixpkgs from nixos-unstable, give another package with services.microvm-spectrum.settings.tools.cloud-hypervisor and .ch-remote, or services.microvm-spectrum.settings.defaults.hypervisor = \"qemu\""
        ]
        [ ]
        [ ]
        [ ]
      ];
      actual = [
        (told { })
        (told { settings.defaults.hypervisor = "qemu"; })
        (told { settings.tools.cloud-hypervisor = "/run/current-system/sw/bin/cloud-hypervisor"; })
        (told { sources = [ ]; })
      ];
    };

  an_unknown_provider = vms { appvm-hello.vmDir = ./vms/appvm-hello; } [
    "services.microvm-spectrum.vms.appvm-hello: its network provider netvm is none of services.microvm-spectrum.vms; add it there, or remove providers/net/netvm"
  ];
  an_unknown_provider_of_a_package =
    vms
      {
        a.runner = runner // {
          providers = [ "netvm" ];
        };
      }
      [
        "services.microvm-spectrum.vms.a: its network provider netvm is none of services.microvm-spectrum.vms; add it there, or remove providers/net/netvm"
      ];

  a_vm_that_provides_its_own_network = vms { appvm-loop.vmDir = ./vms/appvm-loop; } [
    "services.microvm-spectrum.vms: a VM cannot provide its own network, over others or not: appvm-loop -> appvm-loop; remove one of these from the providers of the one before"
  ];
  a_cycle =
    vms
      {
        # Not in the cycle, but leads into it.
        a = client [ "d" ];
        d = client [
          "b"
          "free"
        ];
        b = client [ "c" ];
        c = client [ "d" ];
        free = client [ ];
      }
      [
        "services.microvm-spectrum.vms: a VM cannot provide its own network, over others or not: b -> c -> d -> b; remove one of these from the providers of the one before"
      ];
  two_cycles =
    vms
      {
        a = client [ "b" ];
        b = client [ "a" ];
        x = client [ "y" ];
        y = client [ "x" ];
      }
      [
        "services.microvm-spectrum.vms: a VM cannot provide its own network, over others or not: a -> b -> a; remove one of these from the providers of the one before"
        "services.microvm-spectrum.vms: a VM cannot provide its own network, over others or not: x -> y -> x; remove one of these from the providers of the one before"
      ];

  link_ids_that_are_declared_twice =
    vms
      {
        netvm = client [ ];
        a = client [ "netvm" ] // {
          linkIds.netvm = "a546";
        };
        b = client [ "netvm" ] // {
          linkIds.netvm = "A546";
        };
      }
      [
        "the links a -> netvm and b -> netvm have the same id a546; set services.microvm-spectrum.vms.b.linkIds.netvm = \"a547\""
      ];
  a_declared_link_id_that_another_link_derives =
    vms
      {
        netvm = client [ ];
        a = client [ "netvm" ];
        b = client [ "netvm" ] // {
          linkIds.netvm = "aab2";
        };
        # What would be proposed first.
        c = client [ "netvm" ] // {
          linkIds.netvm = "aab3";
        };
      }
      [
        "the links a -> netvm and b -> netvm have the same id aab2; set services.microvm-spectrum.vms.b.linkIds.netvm = \"aab4\""
      ];
  link_ids_of_vms_of_sources_and_of_these =
    refuses
      {
        vms.netvm = client [ ];
        vms.a = client [ "netvm" ] // {
          linkIds.netvm = "a546";
        };
        sources = [ partition ];
        settings.vm."user/b".links.netvm = "a546";
      }
      [
        "the links a -> netvm and user/b -> netvm have the same id a546; set services.microvm-spectrum.settings.vm.\"user/b\".links.netvm = \"a547\""
      ];
  link_ids_of_packages =
    vms
      {
        netvm = client [ ];
        # Which ids it has is known, though not here to be changed.
        z.runner = package "z" { netvm = "a546"; };
        y.runner = package "y" { netvm = "b546"; };
        x.runner = package "x" { netvm = "b546"; };
        a = client [ "netvm" ] // {
          linkIds.netvm = "a546";
        };
      }
      [
        "the links a -> netvm and z -> netvm have the same id a546; set services.microvm-spectrum.vms.a.linkIds.netvm = \"a547\""
        "the links x -> netvm and y -> netvm have the same id b546; build the runner of y with linkIds.netvm = \"b547\""
      ];
  a_link_id_of_no_link =
    vms
      {
        a = client [ ] // {
          linkIds.netvm = "a546";
        };
      }
      [
        "services.microvm-spectrum.vms.a.linkIds.netvm: netvm provides no network to a; remove it"
      ];
  a_link_id_that_is_not_used =
    vms
      {
        netvm = client [ ];
        a = client [ "netvm" ] // {
          linkIds.netvm = "FFFF";
        };
        b = client [ "netvm" ] // {
          linkIds.netvm = "0000";
        };
      }
      [
        "services.microvm-spectrum.vms.a.linkIds.netvm: the ids 0000 and ffff are not used; choose another"
        "services.microvm-spectrum.vms.b.linkIds.netvm: the ids 0000 and ffff are not used; choose another"
      ];

  a_device_of_two_vms =
    vms
      {
        a = client [ ] // {
          devices = [ "0000:01:00.0" ];
        };
        b = client [ ] // {
          devices = [
            "0000:02:00.0"
            "0000:01:00.0"
          ];
        };
      }
      [
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.vms.b.devices list the PCI device 0000:01:00.0; give it to one VM, once"
      ];
  a_device_twice_in_one_vm =
    vms
      {
        a = client [ ] // {
          devices = [
            "0000:01:00.0"
            "0000:01:00.0"
          ];
        };
      }
      [
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.vms.a.devices list the PCI device 0000:01:00.0; give it to one VM, once"
      ];
  a_device_of_a_vm_of_a_source_and_of_these =
    refuses
      {
        vms.a = client [ ] // {
          devices = [ "0000:01:00.0" ];
        };
        sources = [ partition ];
        settings.vm."user/b".devices = [ "0000:01:00.0" ];
      }
      [
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.settings.vm.\"user/b\".devices list the PCI device 0000:01:00.0; give it to one VM, once"
      ];

  a_user_of_two_vms =
    refuses
      {
        vms.a = {
          inherit runner;
          uid = 70001;
        };
        vms.b = {
          inherit runner;
          uid = 70002;
        };
        sources = [ partition ];
        settings.vm."user/c".uid = 70001;
      }
      [
        "services.microvm-spectrum.vms.a.uid and services.microvm-spectrum.settings.vm.\"user/c\".uid are both 70001; change one of them"
      ];

  two_sources_of_one_name =
    sources
      [
        builtin
        (partition // { name = "system"; })
      ]
      [
        "services.microvm-spectrum.sources, entry 1 and services.microvm-spectrum.sources, entry 2 have the name system; rename one"
      ];
  a_source_with_path_and_partuuid =
    sources
      [ (partition // { partuuid = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11"; }) ]
      [
        "services.microvm-spectrum.sources, entry 1 (user) has a path and a partuuid: keep path if you mount it, partuuid if it is to be mounted when it appears"
      ];
  a_source_that_is_nowhere =
    sources
      [
        {
          kind = "builtin";
          name = "system";
        }
      ]
      [
        "services.microvm-spectrum.sources, entry 1 (system) has neither a path nor a partuuid: write where it is"
      ];
  a_builtin_source_that_appears =
    sources
      [
        {
          kind = "builtin";
          name = "system";
          partuuid = "6e5c4ef5-9a4b-4a5e-8d0c-3d1a9f6f2b11";
        }
      ]
      [
        "services.microvm-spectrum.sources, entry 1 (system) has a partuuid and is no user-partition: mount it, and write its path"
      ];
  a_source_with_a_relative_path =
    sources
      [ (builtin // { path = "vms"; }) ]
      [
        "services.microvm-spectrum.sources, entry 1 (system): the path vms is not absolute; write it from / on"
      ];
  a_source_with_a_bad_name =
    sources
      [ (builtin // { name = "a/b"; }) ]
      [
        "services.microvm-spectrum.sources, entry 1 (a/b): ${nameRule}"
      ];
  a_source_with_the_reserved_name =
    sources
      [ (builtin // { name = "configuration"; }) ]
      [
        "services.microvm-spectrum.sources, entry 1 (configuration): so are the VMs called that are in services.microvm-spectrum.vms; rename it"
      ];

  settings_of_an_unknown_source =
    refuses
      {
        sources = [
          builtin
          partition
        ];
        settings.vm."usr/a".memory = 256;
        settings.vm.b.memory = 256;
        settings.vm."user/c".memory = 256;
        settings.vm.d.runner = "/nix/store/d";
      }
      [
        "services.microvm-spectrum.settings.vm.b names no VM of a source: write SOURCE/NAME with the name of one of the services.microvm-spectrum.sources; NAME alone is enough where there is only one"
        "services.microvm-spectrum.settings.vm.\"usr/a\" names no VM of a source: write SOURCE/NAME with the name of one of the services.microvm-spectrum.sources; NAME alone is enough where there is only one"
      ];
  settings_of_the_only_source = refuses {
    sources = [ builtin ];
    settings.vm.a.autostart = true;
  } [ ];
  a_partition_that_starts_nothing =
    refuses
      {
        sources = [ partition ];
        settings.vm."user/a".autostart = true;
        settings.vm.b.autostart = true;
        settings.defaults.autostart = true;
      }
      [
        "services.microvm-spectrum.settings.vm.b.autostart: VMs of the source user may not start with the host; set autostart = true for the source, or remove it here"
        "services.microvm-spectrum.settings.vm.\"user/a\".autostart: VMs of the source user may not start with the host; set autostart = true for the source, or remove it here"
      ];
  a_partition_that_may_start_something = refuses {
    sources = [ (partition // { autostart = true; }) ];
    settings.vm."user/a".autostart = true;
  } [ ];

  a_tool_with_a_relative_path = refuses { settings.tools.ip = "ip"; } [
    "services.microvm-spectrum.settings.tools.ip: the path ip is not absolute; write it from / on"
  ];

  microvm_nix_beside_it = {
    expected = [
      "services.microvm-spectrum.enable and microvm.host.enable, microvm.nix's own host module, define the same units: set microvm.host.enable = false, and all packages run under those of microvm-spectrum, or services.microvm-spectrum.enable = false, and install microvm-spectrum's packages by microvm.vms"
    ];
    actual =
      map (assertion: assertion.message)
        (evaluate [
          ./microvm-nix.nix
          { services.microvm-spectrum.enable = true; }
        ]).config.assertions;
  };

  all_mistakes_at_once =
    refuses
      {
        vms."a b" = { inherit runner; };
        vms.c = { };
        sources = [ (builtin // { path = "vms"; }) ];
      }
      [
        "services.microvm-spectrum.sources, entry 1 (system): the path vms is not absolute; write it from / on"
        "services.microvm-spectrum.vms.\"a b\": ${nameRule}"
        "services.microvm-spectrum.vms.c has neither vmDir nor runner: set one of them"
      ];
}
