# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the library makes of good arguments.
{ library, pkgs }:
let
  inherit (library) linkIds mkRunner mkRunners;
  built = pkgs.runCommand "a-vm-directory" { } "false";
  one = mkRunner {
    inherit pkgs;
    vmDir = ./vms/appvm-one;
  };
  folder = mkRunners {
    inherit pkgs;
    dir = ./vms;
    defaults.allow."/ext" = "/srv/partition";
    vms.built = {
      vmDir = built;
      providers = [ "netvm" ];
      shares.documents = "/srv/documents";
      shares.package = "${pkgs.busybox}";
    };
    linkIds.built.netvm = "A546";
  };
  inherit (folder.nixosConfigurations.built) config;
in
builtins.mapAttrs
  (_: pair: {
    expected = builtins.elemAt pair 0;
    actual = builtins.elemAt pair 1;
  })
  {
    # What microvm.nix reads of a runner.
    supportsNotifySocket = [
      true
      one.supportsNotifySocket
    ];
    registerWithMachined = [
      false
      one.registerWithMachined
    ];
    canShutdown = [
      true
      one.canShutdown
    ];
    hypervisor = [
      "cloud-hypervisor"
      one.hypervisor
    ];

    # A directory that is there is read.
    name = [
      "appvm-one"
      one.vmName
    ];
    providers = [
      [ "netvm" ]
      one.providers
    ];
    shares = [
      { home = null; }
      one.shares
    ];
    # It is the same with the arguments that it does not need.
    sameWithArguments = [
      one.outPath
      (mkRunner {
        inherit pkgs;
        vmDir = ./vms/appvm-one;
        name = "appvm-one";
        providers = [ "netvm" ];
        shares = [ "home" ];
        linkIds.netvm = linkIds.derive "appvm-one" "netvm";
      }).outPath
    ];
    # A string that is a path of the store is no less there.
    string = [
      [ "netvm" ]
      (mkRunner {
        inherit pkgs;
        vmDir = "${./vms}/appvm-one";
      }).providers
    ];
    # A directory that comes out of a build is not read: this one cannot be built.
    builtWithoutArguments = [
      [ ]
      (mkRunner {
        inherit pkgs;
        name = "vm";
        vmDir = built;
      }).providers
    ];

    # Another tool is another package.
    overridden = [
      false
      (
        one.outPath == (mkRunner {
          inherit pkgs;
          vmDir = ./vms/appvm-one;
          virtiofsd = pkgs.runCommand "another-virtiofsd" { } "";
        }).outPath
      )
    ];

    # With other arguments.
    override = [
      [
        "qemu"
        "appvm-one"
      ]
      [
        (one.override { hypervisor = "qemu"; }).hypervisor
        (one.override { hypervisor = "qemu"; }).vmName
      ]
    ];

    # Whose shared directories are in the guest, for all and by tag.
    guestIds = [
      true
      (pkgs.lib.hasInfix "'--guest-uid=1000' '--guest-uid=home=0' '--guest-gid=home=100' " (
        builtins.unsafeDiscardStringContext
          (one.override {
            guestUid = 1000;
            guestIds.home = {
              guest-uid = 0;
              guest-gid = 100;
            };
          }).system.arguments
      ))
    ];

    # What mkVmDirectory made tells what mkRunner needs; nothing of it is built here.
    made = [
      {
        vmName = "app";
        providers = [ "netvm" ];
        shares.home = "/srv/home";
      }
      (
        let
          runner = mkRunner {
            inherit pkgs;
            vmDir = library.mkVmDirectory {
              inherit pkgs;
              name = "app";
              providers = [ "netvm" ];
              shares.home = "/srv/home";
            };
          };
        in
        {
          inherit (runner) vmName providers shares;
        }
      )
    ];
    # A package without a version is believed.
    cloudHypervisorOfOwn = [
      "cloud-hypervisor"
      (mkRunner {
        inherit pkgs;
        vmDir = ./vms/appvm-one;
        cloud-hypervisor = pkgs.runCommand "patched" { } "";
      }).hypervisor
    ];

    # A folder: all directories in it, and what is added.
    folderRunners = [
      [
        "appvm-one"
        "built"
        "netvm"
      ]
      (builtins.attrNames folder.runners)
    ];
    folderPackages = [
      [
        "vm-appvm-one"
        "vm-built"
        "vm-netvm"
      ]
      (builtins.attrNames folder.packages)
    ];
    folderLinks = [
      [
        (linkIds.link "appvm-one" "netvm" (linkIds.derive "appvm-one" "netvm"))
        (linkIds.link "built" "netvm" "a546")
      ]
      folder.links
    ];

    # Spectrum's addressing, by its own example.
    link = [
      {
        client = "c";
        provider = "p";
        id = "a546";
        clientMac = "0A:B3:EC:00:A5:46";
        providerMac = "0A:B3:EC:80:A5:46";
        clientIpv4 = "100.64.165.70";
        clientTap = "vmc-a546";
        providerTap = "vmr-a546";
        bridge = "vmb-a546";
      }
      (linkIds.link "c" "p" "a546")
    ];

    # What microvm.nix's host module and command read of a flake.
    declaredRunner = [
      folder.runners.built.outPath
      config.microvm.declaredRunner.outPath
    ];
    toplevelIsADerivation = [
      "derivation"
      config.system.build.toplevel.type
    ];
    toplevelDiffers = [
      false
      (
        config.system.build.toplevel.outPath
        == folder.nixosConfigurations.netvm.config.system.build.toplevel.outPath
      )
    ];
    microvmShares = [
      [
        {
          tag = "documents";
          proto = "virtiofs";
          source = "/srv/documents";
        }
      ]
      config.microvm.shares
    ];
    # microvm.nix does this, and a package's path cannot be a name.
    microvmSharesAsNames = [
      [ "/srv/documents" ]
      (builtins.attrNames (
        builtins.listToAttrs (
          map (share: {
            name = share.source;
            value = null;
          }) config.microvm.shares
        )
      ))
    ];
    # Nix cannot read where the link of a directory leads.
    microvmSharesUnknown = [
      [ ]
      folder.nixosConfigurations.appvm-one.config.microvm.shares
    ];
  }
