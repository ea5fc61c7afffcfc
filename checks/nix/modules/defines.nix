# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the module defines.
{
  lib,
  evaluate,
  pkgs,
}:
let
  test = expected: actual: { inherit expected actual; };
  host =
    more:
    (evaluate [
      { services.microvm-spectrum.enable = true; }
      more
    ]).config;
  plain = host { };
  rich = (evaluate [ ./rich.nix ]).config;
  etc = config: lib.mapAttrs (_: file: file.source) config.environment.etc;
  toml =
    config:
    builtins.fromTOML (
      builtins.unsafeDiscardStringContext config.services.microvm-spectrum.configFile.unchecked.text
    );
  paths = map toString;
  # Of systemd.packages those with units, and the drop-ins for these.
  isDropIn = package: package ? path;
  unitsOf = config: paths (lib.filter (package: !isDropIn package) config.systemd.packages);
  dropIns = lib.filter isDropIn plain.systemd.packages;
  built = config: name: config.services.microvm-spectrum.vms.${name}.finalRunner.arguments;
  vms = definition: host { services.microvm-spectrum.vms = definition; };
in
{
  nothing_unless_enabled =
    test
      {
        packages = [ ];
        etc = { };
        services = { };
        targets = { };
        users = { };
        modules = [ ];
        assertions = [ ];
        warnings = [ ];
        udev = [ ];
        tmpfiles = [ ];
        system = [ ];
      }
      (
        let
          config =
            (evaluate [
              {
                services.microvm-spectrum.vms."a b" = { };
                services.microvm-spectrum.sources = [
                  {
                    kind = "builtin";
                    name = "x";
                  }
                ];
                services.nscd.enable = false;
              }
            ]).config;
        in
        {
          inherit (config.systemd) packages services targets;
          etc = etc config;
          inherit (config.users) users;
          modules = config.boot.kernelModules;
          inherit (config) assertions warnings;
          udev = config.services.udev.packages;
          tmpfiles = config.systemd.tmpfiles.packages;
          system = config.environment.systemPackages;
        }
      );

  a_plain_host_has_nothing_to_complain_of =
    test
      [
        [ ]
        [ ]
      ]
      [
        plain.assertions
        plain.warnings
      ];

  the_packages_files_are_installed_as_they_are =
    test
      {
        systemd = [ "${pkgs.microvm-spectrum}" ];
        udev = [ "${pkgs.microvm-spectrum}" ];
        tmpfiles = [ "${pkgs.microvm-spectrum}" ];
        system = [ "${pkgs.microvm-spectrum}" ];
        network = "${pkgs.microvm-spectrum}/lib/systemd/network/10-microvm-spectrum.network";
      }
      {
        systemd = unitsOf plain;
        udev = paths plain.services.udev.packages;
        tmpfiles = paths plain.systemd.tmpfiles.packages;
        system = paths plain.environment.systemPackages;
        network = (etc plain)."systemd/network/10-microvm-spectrum.network";
      };

  # NixOS links the generators of systemd.packages, and then these: a second of
  # the same name breaks the build.
  the_generator_is_not_named_again = test { } plain.systemd.generators;

  the_package_can_be_another =
    let
      other = pkgs.derivation "other";
      config = host { services.microvm-spectrum.package = other; };
    in
    test
      [
        [ "${other}" ]
        "${other}/lib/systemd/network/10-microvm-spectrum.network"
        "${other}/bin/microvm-spectrum"
      ]
      [
        (unitsOf config)
        (etc config)."systemd/network/10-microvm-spectrum.network"
        (toml config).tools.microvm-spectrum
      ];

  units_have_what_NixOS_ignores_in_Install =
    test
      {
        microvms = [ "multi-user.target" ];
        sync = [ "multi-user.target" ];
        session = [ "graphical-session.target" ];
      }
      {
        session = plain.systemd.user.services.microvm-spectrum-wayland.wantedBy;
        microvms = plain.systemd.targets.microvms.wantedBy;
        sync = plain.systemd.services.microvm-spectrum-sync.wantedBy;
      };

  # Each in a file that no systemd.services."microvm@NAME" replaces.
  a_rebuild_restarts_no_vm =
    test
      (map (template: "lib/systemd/system/${template}@.service.d/microvm-spectrum.conf") [
        "microvm"
        "microvm-pci-devices"
        "microvm-set-booted"
        "microvm-spectrum-rescan"
        "microvm-spectrum-resync"
        "microvm-tap-interfaces"
        "microvm-uplink"
        "microvm-virtiofsd"
      ])
      (
        map (dropIn: dropIn.path) (
          lib.filter (dropIn: lib.hasInfix "\nX-RestartIfChanged=false\n" dropIn.text) dropIns
        )
      );

  the_namespace_is_made_with_ip = test [ "${pkgs.iproute2}" ] (
    paths plain.systemd.services.microvm-spectrum-network.path
  );

  dhcpcd_leaves_links_alone = test [ "vmb-*" "vmc-*" "vmr-*" ] plain.networking.dhcpcd.denyInterfaces;

  older_packages_find_their_programs =
    let
      first =
        template:
        lib.head (
          lib.concatMap (dropIn: builtins.match ".*\"PATH=([^:]*):.*" dropIn.text) (
            lib.filter (dropIn: lib.hasInfix "/${template}@" dropIn.path) dropIns
          )
        );
    in
    test
      [
        "${pkgs.iproute2}/bin"
        "${pkgs.virtiofsd}/bin"
      ]
      [
        (first "microvm-tap-interfaces")
        (first "microvm-virtiofsd")
      ];

  a_new_configuration_changes_sync =
    let
      triggers = config: paths config.systemd.services.microvm-spectrum-sync.restartTriggers;
    in
    test [ "${plain.services.microvm-spectrum.configFile}" ] (triggers plain);

  the_configuration_is_installed = test "${plain.services.microvm-spectrum.configFile}" "${(etc plain)
    ."microvm-spectrum/config.toml"
  }";

  the_common_user_is_nobody_else =
    test
      {
        users = [ "microvm" ];
        groups = [
          "kvm"
          "microvm"
        ];
        isSystemUser = true;
        group = "microvm";
        extraGroups = [ "kvm" ];
      }
      {
        users = lib.attrNames plain.users.users;
        groups = lib.attrNames plain.users.groups;
        inherit (plain.users.users.microvm) isSystemUser group extraGroups;
      };

  drivers_are_loaded_and_that_for_PCI_devices_for_those_who_use_it =
    let
      common = [
        "tun"
        "vhost_net"
      ];
      modules = config: config.boot.kernelModules;
      device = [ "0000:01:00.0" ];
    in
    test
      [
        common
        (common ++ [ "vfio-pci" ])
        (common ++ [ "vfio-pci" ])
      ]
      [
        (modules plain)
        (modules (host {
          services.microvm-spectrum.vms.a = {
            vmDir = ./vms/netvm;
            devices = device;
          };
        }))
        (modules (host {
          services.microvm-spectrum.settings.vm."user/a".devices = device;
        }))
      ];

  users_override_units_in_the_NixOS_way =
    let
      config = host {
        systemd.services."microvm@" = {
          serviceConfig.MemoryMax = "2G";
        };
        systemd.services.microvm-spectrum-sync.wantedBy = lib.mkForce [ ];
        systemd.targets.microvms.enable = false;
        environment.etc."systemd/network/10-microvm-spectrum.network".enable = false;
        environment.etc."microvm-spectrum/config.toml".source = lib.mkForce "/etc/mine.toml";
        users.users.microvm.extraGroups = [ "render" ];
      };
    in
    test
      {
        service = {
          MemoryMax = "2G";
        };
        strategy = "asDropinIfExists";
        sync = [ ];
        target = false;
        network = false;
        config = "/etc/mine.toml";
        groups = [
          "kvm"
          "render"
        ];
      }
      {
        service = config.systemd.services."microvm@".serviceConfig;
        strategy = config.systemd.services."microvm@".overrideStrategy;
        sync = config.systemd.services.microvm-spectrum-sync.wantedBy;
        target = config.systemd.targets.microvms.enable;
        network = config.environment.etc."systemd/network/10-microvm-spectrum.network".enable;
        config = config.environment.etc."microvm-spectrum/config.toml".source;
        groups = lib.sort (a: b: a < b) config.users.users.microvm.extraGroups;
      };

  a_module_that_is_imported_twice_is_one = test [ "microvm-spectrum" ] (
    map (package: package.name)
      (evaluate [
        ../../../modules/host.nix
        { imports = [ ../../../modules/host.nix ]; }
        { services.microvm-spectrum.enable = true; }
      ]).config.environment.systemPackages
  );

  a_directory_of_mkVmDirectory_tells_its_providers =
    test
      [
        [ ]
        [ "netvm" ]
      ]
      (
        let
          config = vms {
            netvm.vmDir = pkgs.derivation "netvm" // {
              providers = [ ];
            };
            app.vmDir = pkgs.derivation "app" // {
              providers = [ "netvm" ];
            };
          };
        in
        [
          (map (assertion: assertion.message) config.assertions)
          config.services.microvm-spectrum.vms.app.links.providers
        ]
      );

  what_is_not_set_is_not_in_the_configuration = test [
    "nix-store"
    "tools"
    "uids"
  ] (lib.attrNames (toml plain));

  the_program_checks_the_configuration =
    let
      own = pkgs.derivation "for-the-host";
      checks =
        more: program:
        lib.hasInfix
          (builtins.unsafeDiscardStringContext "if ! ${program}/bin/microvm-spectrum check-config $unchecked;")
          (host {
            imports = [ more ];
            services.microvm-spectrum.package = own;
          }).services.microvm-spectrum.configFile.script;
      crossed = pkgs // {
        stdenv = pkgs.stdenv // {
          buildPlatform.canExecute = _: false;
        };
        buildPackages.callPackage = _: _: pkgs.derivation "for-the-build";
      };
    in
    test
      [
        true
        true
      ]
      [
        (checks { } own)
        (checks { _module.args.pkgs = lib.mkForce crossed; } (crossed.buildPackages.callPackage { } { }))
      ];

  settings_merge_over_modules =
    test
      {
        memory = 256;
        vcpus = 2;
      }
      (toml (host {
        imports = [
          { services.microvm-spectrum.settings.defaults.memory = lib.mkDefault 128; }
          { services.microvm-spectrum.settings.defaults.vcpus = 2; }
        ];
        services.microvm-spectrum.settings.defaults.memory = 256;
      })).defaults;

  sources_keep_their_order =
    let
      source = name: {
        kind = "builtin";
        inherit name;
        path = "/srv/${name}";
      };
      sources = host {
        imports = [
          { services.microvm-spectrum.sources = lib.mkAfter [ (source "last") ]; }
          { services.microvm-spectrum.sources = lib.mkBefore [ (source "first") ]; }
        ];
        services.microvm-spectrum.sources = [
          (source "b")
          (source "a")
        ];
      };
    in
    test [ "first" "b" "a" "last" ] (map (source: source.name) (toml sources).source);

  a_source_has_what_is_set =
    test
      [
        {
          kind = "user-partition";
          name = "user";
          path = "/srv/P";
        }
      ]
      (toml (host {
        services.microvm-spectrum.sources = [
          {
            kind = "user-partition";
            name = "user";
            path = "/srv/P";
          }
        ];
      })).source;

  tools_are_of_this_host =
    test
      {
        microvm-spectrum = "${pkgs.microvm-spectrum}/bin/microvm-spectrum";
        ip = "${pkgs.iproute2}/bin/ip";
        nft = "${pkgs.nftables}/bin/nft";
        passt = "${pkgs.passt}/bin/passt";
        virtiofsd = "/mine";
        cloud-hypervisor = "${pkgs.cloud-hypervisor}/bin/cloud-hypervisor";
      }
      (toml (host {
        services.microvm-spectrum.settings.tools.virtiofsd = "/mine";
      })).tools;

  qemu_is_there_for_those_who_use_it =
    let
      qemu =
        more:
        (toml (host {
          services.microvm-spectrum.settings = more;
        })).tools.qemu-system-x86_64 or null;
    in
    test
      [ null "${pkgs.qemu_kvm}/bin/qemu-system-x86_64" "${pkgs.qemu_kvm}/bin/qemu-system-x86_64" ]
      [
        (qemu { })
        (qemu { defaults.hypervisor = "qemu"; })
        (qemu { vm."user/a".hypervisor = "qemu"; })
      ];

  a_vm_is_built_with_its_settings_and_the_defaults =
    let
      config = host {
        services.microvm-spectrum = {
          settings.defaults = {
            memory = 256;
            hypervisor = "qemu";
            link-ports = 3;
          };
          vms.appvm-hello = {
            vmDir = ./vms/appvm-hello;
            memory = 512;
            vcpus = 2;
            accel = "tcg";
            devices = [ "0000:01:00.0" ];
            uplink = true;
            ports = [ "127.0.0.1:8080:80" ];
            guestUid = 1000;
            guestIds.documents.guest-gid = 100;
            linkIds.netvm = "a546";
            allow."/usr/img" = "/srv/img";
            shares.documents = "/srv/documents";
            providers = [ "netvm" ];
          };
          vms.netvm.vmDir = ./vms/netvm;
        };
      };
    in
    test
      {
        name = "appvm-hello";
        memory = 512;
        vcpus = 2;
        accel = "tcg";
        hypervisor = "qemu";
        linkPorts = 3;
        devices = [ "0000:01:00.0" ];
        uplink = true;
        ports = [ "127.0.0.1:8080:80" ];
        guestUid = 1000;
        guestIds.documents = {
          guest-uid = null;
          guest-gid = 100;
        };
        linkIds.netvm = "a546";
        allow."/usr/img" = "/srv/img";
        shares.documents = "/srv/documents";
        providers = [ "netvm" ];
        microvm-spectrum = "${pkgs.microvm-spectrum}";
        vmDir = toString ./vms/appvm-hello;
      }
      (
        let
          arguments = removeAttrs (built config "appvm-hello") [ "pkgs" ];
        in
        arguments
        // {
          microvm-spectrum = "${arguments.microvm-spectrum}";
          vmDir = toString arguments.vmDir;
        }
      );

  what_nobody_sets_is_mkRunners_to_decide = test [
    "allow"
    "devices"
    "guestIds"
    "linkIds"
    "microvm-spectrum"
    "name"
    "pkgs"
    "ports"
    "vmDir"
  ] (lib.attrNames (built (vms { netvm.vmDir = ./vms/netvm; }) "netvm"));

  a_package_is_installed_and_its_host_settings_with_it =
    test
      {
        netvm = {
          runner = "${pkgs.derivation "microvm-spectrum-netvm"}";
          uid = 70001;
          restart-if-changed = true;
        };
        elsewhere = {
          runner = "${pkgs.derivation "elsewhere"}";
          autostart = true;
        };
      }
      (toml (vms {
        netvm = {
          vmDir = ./vms/netvm;
          uid = 70001;
          restartIfChanged = true;
          memory = 256;
          devices = [ "0000:01:00.0" ];
        };
        elsewhere = {
          runner = pkgs.derivation "elsewhere";
          autostart = true;
        };
      })).vm;

  providers_are_read_where_nothing_has_to_be_built =
    let
      config = vms {
        netvm.vmDir = ./vms/netvm;
        appvm-hello.vmDir = ./vms/appvm-hello;
        as-text.vmDir = "${toString ./.}/vms/appvm-hello";
        derivation = {
          vmDir = pkgs.derivation "vm-dir";
          providers = [ "netvm" ];
        };
        elsewhere.runner = pkgs.derivation "elsewhere" // {
          providers = [ "netvm" ];
          linkIds.netvm = "0abc";
        };
        unknown.runner = pkgs.derivation "unknown";
      };
    in
    test {
      netvm = [ ];
      appvm-hello = [ "netvm" ];
      as-text = [ "netvm" ];
      derivation = [ "netvm" ];
      elsewhere = [ "netvm" ];
      unknown = null;
    } (lib.mapAttrs (_: vm: vm.links.providers) config.services.microvm-spectrum.vms);

  a_network_without_mistakes_has_none =
    let
      config = vms {
        netvm.vmDir = ./vms/netvm;
        vpn = {
          vmDir = pkgs.derivation "vpn";
          providers = [ "netvm" ];
        };
        appvm-hello = {
          vmDir = ./vms/appvm-hello;
          providers = [
            "vpn"
            "netvm"
          ];
        };
      };
    in
    test [ ] config.assertions;

  # Two VMs in each of forty layers, each a client of both in the next: 2^40 ways.
  a_network_is_not_walked_way_by_way =
    let
      layer =
        n:
        map
          (side: {
            name = "${side}${toString n}";
            value = {
              vmDir = pkgs.derivation "vm-dir";
              providers = lib.optionals (n < 40) [
                "a${toString (n + 1)}"
                "b${toString (n + 1)}"
              ];
            };
          })
          [
            "a"
            "b"
          ];
    in
    test [ ] (vms (lib.listToAttrs (lib.concatLists (lib.genList (n: layer (n + 1)) 40)))).assertions;

  the_rich_host_has_nothing_to_complain_of =
    test
      [
        [ ]
        [ ]
      ]
      [
        rich.assertions
        rich.warnings
      ];

  a_provider_may_be_of_a_source =
    test [ ]
      (host {
        services.microvm-spectrum.vms.appvm-hello.vmDir = ./vms/appvm-hello;
        services.microvm-spectrum.sources = [
          {
            kind = "builtin";
            name = "system";
            path = "/srv/vms";
          }
        ];
      }).assertions;

  nss_systemd_needs_nscd = test [
    "services.microvm-spectrum: VMs run as users that nss-systemd knows, which programs reach through nscd: enable services.nscd.\n"
  ] (host { services.nscd.enable = false; }).warnings;

  a_cluster_is_what_belongs_together =
    let
      config = host { services.microvm-spectrum.cluster.enable = true; };
      inherit (config.services.pacemaker.package.arguments) ocf-resource-agents;
    in
    test
      {
        defaults.cluster = true;
        daemons = [
          true
          true
        ];
        agent = true;
        paths = [ "/lib/ocf/resource.d/microvm-spectrum" ];
        after = [ "microvm-spectrum-sync.service" ];
        without = {
          pacemaker = false;
          paths = [ ];
          unit = false;
        };
      }
      {
        inherit (toml config) defaults;
        daemons = [
          config.services.corosync.enable
          config.services.pacemaker.enable
        ];
        agent = lib.hasInfix "/run/current-system/sw/lib/ocf/resource.d/microvm-spectrum" ocf-resource-agents.script;
        paths = config.environment.pathsToLink;
        inherit (config.systemd.services.pacemaker) after;
        without = {
          pacemaker = plain.services.pacemaker.enable;
          paths = plain.environment.pathsToLink;
          unit = plain.systemd.services ? pacemaker;
        };
      };

  the_cluster_of_a_source_and_of_a_vm =
    let
      config = host {
        services.microvm-spectrum.sources = [
          {
            kind = "builtin";
            name = "system";
            path = "/srv/vms";
            cluster = true;
          }
        ];
        services.microvm-spectrum.vms.appvm-hello = {
          vmDir = ./vms/appvm-hello;
          cluster = false;
        };
      };
    in
    test
      [
        true
        false
      ]
      [
        (lib.head (toml config).source).cluster
        (toml config).vm.appvm-hello.cluster
      ];

  microvm_nix_beside_it_is_fine_when_its_host_module_is_off =
    let
      config =
        (evaluate [
          ./microvm-nix.nix
          { microvm.host.enable = false; }
          { services.microvm-spectrum.enable = true; }
        ]).config;
    in
    test
      [
        [ ]
        [ "${pkgs.microvm-spectrum}" ]
        true
      ]
      [
        config.assertions
        (unitsOf config)
        (config.systemd.services ? microvm-spectrum-sync)
      ];

  microvm_nix_is_left_alone_when_it_is_on =
    let
      config =
        (evaluate [
          ./microvm-nix.nix
          { services.microvm-spectrum.enable = true; }
        ]).config;
    in
    test
      {
        packages = [ ];
        services = [ "microvm@" ];
        path = "microvm.nix";
        etc = { };
      }
      {
        inherit (config.systemd) packages;
        services = lib.attrNames config.systemd.services;
        path = config.systemd.services."microvm@".serviceConfig.ExecStart;
        etc = etc config;
      };
}
