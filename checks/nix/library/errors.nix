# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What the library refuses, and what it says.
{ library, pkgs }:
let
  inherit (library) mkRunner mkRunners;
  built = pkgs.runCommand "a-vm-directory" { } "false";
  # A runner of a directory that is not read.
  runner =
    arguments:
    (mkRunner (
      {
        inherit pkgs;
        name = "vm";
        vmDir = built;
      }
      // arguments
    )).outPath;
  # Clients of netvm, in one set.
  set =
    names: arguments:
    (mkRunners (
      {
        inherit pkgs;
        vms = {
          netvm.vmDir = built;
        }
        // pkgs.lib.genAttrs names (_: {
          vmDir = built;
          providers = [ "netvm" ];
        });
      }
      // arguments
    )).links;
  # A set of VMs with these providers.
  graph =
    providers:
    (mkRunners {
      inherit pkgs;
      vms = builtins.mapAttrs (_: providers: {
        vmDir = built;
        inherit providers;
      }) providers;
    }).links;
  error = value: message: { inherit value message; };
  # A VM directory.
  made =
    arguments:
    (library.mkVmDirectory (
      {
        inherit pkgs;
        name = "app";
      }
      // arguments
    )).outPath;
in
{
  oldCloudHypervisor =
    error
      (runner {
        cloud-hypervisor = pkgs.runCommand "cloud-hypervisor-50.0" { } "";
      })
      ''vm: Cloud Hypervisor 50.0 is too old, VMs run under 52 and later: take Nixpkgs from nixos-unstable, give another package with the argument cloud-hypervisor, or hypervisor = "qemu"'';
  nameOfMade = error (made { name = "a b"; }) ''a VM's name cannot be "a b"'';
  providerOfMade = error (made {
    providers = [ "a/b" ];
  }) ''app: a network provider cannot be "a/b"'';
  packagesOfAnotherImage =
    error
      (made {
        rootImage = built;
        packages = [ ];
      })
      "app: packages is for an image that mkVmDirectory makes, and rootImage names another: give mkRootImage that argument, or remove rootImage";
  badName = error (runner {
    name = "a b";
  }) ''a VM's name cannot be "a b": the name of a VM has letters, digits'';
  longName = error (runner {
    name = builtins.concatStringsSep "" (builtins.genList (_: "a") 65);
  }) "the name of a VM has letters, digits, '_', '.' and '-', at most 64";
  noName =
    error
      (mkRunner {
        inherit pkgs;
        vmDir = built;
      }).outPath
      "mkRunner needs the argument name for a vmDir that is a path of the store";
  noNameOfAFlake =
    error
      (mkRunner {
        inherit pkgs;
        vmDir = builtins.path { path = ./vms/netvm; };
      }).outPath
      "mkRunner needs the argument name for a vmDir that is a path of the store";
  missing =
    error
      (mkRunner {
        inherit pkgs;
        vmDir = ./vms/missing;
      }).outPath
      "vms/missing does not exist (in a flake that lies in Git: git add it)";
  badProvider = error (runner {
    providers = [ "../netvm" ];
  }) ''vm: a network provider cannot be "../netvm"'';
  ownProvider = error (runner {
    providers = [ "vm" ];
  }) "vm: would provide its own network; remove providers/net/vm";
  badLinkId = error (runner {
    providers = [ "netvm" ];
    linkIds.netvm = "a54";
  }) ''vm: linkIds.netvm cannot be "a54": a link id is four hexadecimal digits in quotes'';
  numberAsLinkId = error (runner {
    providers = [ "netvm" ];
    linkIds.netvm = 1234;
  }) "vm: linkIds.netvm cannot be 1234: a link id is four hexadecimal digits in quotes";
  reservedLinkId = error (runner {
    providers = [ "netvm" ];
    linkIds.netvm = "FFFF";
  }) "the link ids 0000 and ffff are not used";
  linkIdOfNoProvider = error (runner {
    linkIds.netvm = "a546";
  }) "vm: linkIds.netvm is set, and netvm is none of its network providers";
  guestIdsOfNoShare = error (runner {
    guestIds.documents.guest-uid = 1000;
  }) "vm: guestIds.documents is set, and documents is none of its shared directories";
  hypervisor = error (runner {
    hypervisor = "crosvm";
  }) ''vm: hypervisor cannot be "crosvm"; there are cloud-hypervisor and qemu'';
  accel = error (runner {
    accel = "hvf";
  }) ''vm: accel cannot be "hvf"; there are auto, kvm, tcg'';
  accelOfCloudHypervisor = error (runner {
    accel = "tcg";
  }) "vm: cloud-hypervisor always uses KVM";
  otherProviders =
    error
      (mkRunner {
        inherit pkgs;
        vmDir = ./vms/appvm-one;
        providers = [ ];
      }).outPath
      ''appvm-one: the argument providers names [], and the VM directory ["netvm"]'';
  otherShares =
    error
      (mkRunner {
        inherit pkgs;
        vmDir = ./vms/appvm-one;
        shares.documents = "/srv/documents";
      }).outPath
      ''appvm-one: the argument shares names ["documents"], and the VM directory ["home"]'';
  allAtOnce = error (runner {
    providers = [ "vm" ];
    hypervisor = "bhyve";
  }) "2 problems:";

  # Both ids are derived from the names.
  collision =
    error
      (set [
        "app413"
        "app766"
      ] { })
      ''the links app413 -> netvm and app766 -> netvm have the same id 086c; set linkIds.app766.netvm = "086d"'';
  collisionWithDeclared = error (set [
    "app413"
    "other"
  ] { linkIds.other.netvm = "086c"; }) ''have the same id 086c; set linkIds.other.netvm = "086d"'';
  collisionOfOneVm = error (runner {
    name = "client";
    providers = [
      "net86"
      "net422"
    ];
  }) "client: set linkIds.";
  unknownProvider = error (graph {
    app = [ "netvm" ];
  }) "app: no VM has the name of its network provider netvm; correct providers/net";
  cycle = error (graph {
    a = [ "b" ];
    b = [ "c" ];
    c = [ "a" ];
  }) "VMs would provide each other's networks: a -> b -> c -> a; remove one";
  linkIdsOfNoVm = error (set [ "app" ] {
    linkIds.ap.netvm = "a546";
  }) "linkIds.ap is set, and there is no VM of that name";
  noDirectory =
    error
      (mkRunners {
        inherit pkgs;
        vms.app.memory = 64;
      }).links
      "vms.app has no vmDir, and there is no directory of that name";
  missingFolder =
    error
      (mkRunners {
        inherit pkgs;
        dir = ./missing;
      }).links
      "missing does not exist";
}
