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
  partition = {
    kind = "user-partition";
    name = "user";
    path = "/srv/P";
  };
in
{
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
          waylandMemory = 512;
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
        "services.microvm-spectrum.vms.a has a runner, which has accel and allow and devices and hypervisor and linkIds and linkPorts and memory and providers and shares and vcpus and waylandMemory built in: remove them here, and build the runner with them"
      ];
  providers_of_a_directory_that_is_built = vms { a.vmDir = pkgs.derivation "vm-dir"; } [
    "services.microvm-spectrum.vms.a has a vmDir that is a derivation, which evaluation does not read: set providers to the names in its providers/net, [ ] for none"
  ];
  providers_of_a_directory_in_what_is_built = vms { a.vmDir = "${pkgs.derivation "vms"}/a"; } [
    "services.microvm-spectrum.vms.a has a vmDir that is a derivation, which evaluation does not read: set providers to the names in its providers/net, [ ] for none"
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
          "services.microvm-spectrum.sources: Cloud Hypervisor 50.0 is too old, VMs run under 52 and later: take Nixpkgs from nixos-unstable, give another package with services.microvm-spectrum.settings.tools.cloud-hypervisor, or services.microvm-spectrum.settings.defaults.hypervisor = \"qemu\""
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
    "services.microvm-spectrum.vms.appvm-hello: no VM has the name of its network provider netvm; add it to services.microvm-spectrum.vms, or remove providers/net/netvm"
  ];
  an_unknown_provider_of_a_package =
    vms
      {
        a.runner = runner // {
          providers = [ "netvm" ];
        };
      }
      [
        "services.microvm-spectrum.vms.a: no VM has the name of its network provider netvm; add it to services.microvm-spectrum.vms, or remove providers/net/netvm"
      ];

  a_vm_that_provides_its_own_network = vms { appvm-loop.vmDir = ./vms/appvm-loop; } [
    "services.microvm-spectrum.vms: VMs would provide each other's networks: appvm-loop -> appvm-loop; remove one of these providers"
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
        "services.microvm-spectrum.vms: VMs would provide each other's networks: b -> c -> d -> b; remove one of these providers"
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
        "services.microvm-spectrum.vms: VMs would provide each other's networks: a -> b -> a; remove one of these providers"
        "services.microvm-spectrum.vms: VMs would provide each other's networks: x -> y -> x; remove one of these providers"
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
        "the links z -> netvm and a -> netvm have the same id a546; set services.microvm-spectrum.vms.a.linkIds.netvm = \"a547\""
        "the links x -> netvm and y -> netvm have the same id b546; build the runner of y with linkIds.netvm = \"b547\""
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
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.vms.b.devices list the PCI device 0000:01:00.0: give it to one VM"
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
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.vms.a.devices list the PCI device 0000:01:00.0: give it to one VM"
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
        "services.microvm-spectrum.vms.a.devices and services.microvm-spectrum.settings.vm.\"user/b\".devices list the PCI device 0000:01:00.0: give it to one VM"
      ];

  microvm_nix_beside_it = {
    expected = [
      "services.microvm-spectrum.enable and microvm.host.enable, which is microvm.nix's own host module, define the same units: set microvm.host.enable = false to run all packages under the units of microvm-spectrum, or services.microvm-spectrum.enable = false to run them under those of microvm.nix"
    ];
    actual =
      map (assertion: assertion.message)
        (evaluate [
          ./microvm-nix.nix
          { services.microvm-spectrum.enable = true; }
        ]).config.assertions;
  };

  all_mistakes_at_once =
    vms
      {
        a.runner = runner // {
          providers = [ "netvm" ];
        };
        c = { };
      }
      [
        "services.microvm-spectrum.vms.c has neither vmDir nor runner: set one of them"
        "services.microvm-spectrum.vms.a: no VM has the name of its network provider netvm; add it to services.microvm-spectrum.vms, or remove providers/net/netvm"
      ];
}
