# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# VMs that are part of the host's configuration: each is a runner package.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.microvm-spectrum;
  inherit (cfg.settings) defaults;
  settingsOf = import ./settings.nix { inherit lib; };
  given = lib.filterAttrs (_: value: value != null);

  vm =
    { config, name, ... }:
    {
      options = {
        vmDir = mkOption {
          type = types.nullOr types.path;
          default = null;
          example = lib.literalExpression "./vms/appvm-hello";
          description = ''
            The VM directory from which Nix builds its package: a path, or a derivation. Evaluation reads no
            derivation: set `providers` and `shares` for it, except for one of `lib.mkVmDirectory`, which names them
            itself. Each evaluation hashes a path with all its images; `docs/nix.md` shows where big ones go.
          '';
        };
        runner = mkOption {
          type = types.nullOr types.package;
          default = null;
          example = lib.literalExpression "inputs.vms.packages.\${system}.vm-appvm-hello";
          description = "Its package, instead of `vmDir`: a derivation of `lib.mkRunner`.";
        };
        providers = mkOption {
          type = types.nullOr (types.listOf types.str);
          default = null;
          example = [ "netvm" ];
          description = "The VMs that provide networks to it; when null, the names in `providers/net` of `vmDir`.";
        };
        shares = mkOption {
          type = types.nullOr (types.either (types.listOf types.str) (types.attrsOf types.str));
          default = null;
          example.documents = "/srv/documents";
          description = ''
            The tags of its shared directories, or the directories by their tags; when null, the tags in `shared-dirs`
            of `vmDir`.
          '';
        };
        allow = mkOption {
          type = types.attrsOf types.str;
          default = { };
          example."/usr/img" = "/srv/spectrum/img";
          description = "Directories of the host by the prefixes of links in `vmDir` that may lead there.";
        };
        guestUid = settingsOf.guest-uid;
        guestGid = settingsOf.guest-gid;
        guestIds = settingsOf.shares;
        linkIds = settingsOf.links;
        linkPorts = settingsOf.link-ports;
        waylandMemory = settingsOf.wayland-memory;
        waylandUser = settingsOf.wayland-user;
        restartIfChanged = settingsOf.restart-if-changed;
        inherit (settingsOf)
          hypervisor
          memory
          vcpus
          accel
          devices
          uplink
          ports
          autostart
          cluster
          uid
          wayland
          ;
        finalRunner = mkOption {
          type = types.nullOr types.package;
          readOnly = true;
          defaultText = lib.literalMD "`runner`, or what is built from `vmDir`";
          example = lib.literalExpression "config.services.microvm-spectrum.vms.appvm-hello.finalRunner";
          description = "The package that the host runs.";
        };
        links = mkOption {
          type = types.raw;
          internal = true;
          readOnly = true;
          description = "What is known at evaluation of its links: `providers`, null if that is nothing, and `linkIds`.";
        };
      };

      config = {
        finalRunner =
          if config.vmDir == null then
            config.runner
          else
            cfg.mkRunner (given {
              inherit pkgs name;
              inherit (config)
                vmDir
                providers
                shares
                linkIds
                devices
                guestIds
                ports
                uplink
                allow
                ;
              # What starts a VM and what runs in it are the same program.
              microvm-spectrum = cfg.package;
              hypervisor = firstGiven config.hypervisor defaults.hypervisor;
              memory = firstGiven config.memory defaults.memory;
              vcpus = firstGiven config.vcpus defaults.vcpus;
              accel = firstGiven config.accel defaults.accel;
              linkPorts = firstGiven config.linkPorts defaults.link-ports;
              guestUid = firstGiven config.guestUid defaults.guest-uid;
              guestGid = firstGiven config.guestGid defaults.guest-gid;
              waylandMemory = firstGiven config.waylandMemory defaults.wayland-memory;
            });
        links = import ./vm-links.nix config;
      };
    };
  firstGiven = own: other: if own != null then own else other;
in
{
  options.services.microvm-spectrum = {
    vms = mkOption {
      type = types.attrsOf (types.submodule vm);
      default = { };
      example = lib.literalExpression ''
        {
          netvm.vmDir = ./vms/netvm;
          appvm-hello = {
            vmDir = ./vms/appvm-hello;
            memory = 512;
            autostart = true;
          };
        }
      '';
      description = ''
        VMs that Nix builds and installs with the host, by their names. A VM of the same name in a source does not
        run. `settings.defaults` holds for these, too.
      '';
    };
    mkRunner = mkOption {
      type = types.raw;
      internal = true;
      default = import ../nix/lib/mk-runner.nix;
      defaultText = lib.literalExpression "microvm-spectrum.lib.mkRunner";
      example = lib.literalExpression "microvm-spectrum.lib.mkRunner";
      description = "Makes a package from a VM directory.";
    };
    passthrough = mkOption {
      type = types.bool;
      internal = true;
      readOnly = true;
      description = "Whether a VM gets PCI devices of the host.";
    };
  };

  config.services.microvm-spectrum = {
    settings.vm = lib.mapAttrs (_: vm: {
      runner = "${vm.finalRunner}";
      inherit (vm)
        autostart
        cluster
        uid
        wayland
        ;
      restart-if-changed = vm.restartIfChanged;
      wayland-user = vm.waylandUser;
    }) (lib.filterAttrs (_: vm: vm.vmDir != null || vm.runner != null) cfg.vms);
    passthrough = lib.any (vm: vm.devices or [ ] != [ ]) (
      lib.attrValues cfg.vms ++ lib.attrValues cfg.settings.vm
    );
  };
}
