# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# The runner package of one VM directory, without its `override`: ./mk-runner.nix.
let
  cloudHypervisor = import ./cloud-hypervisor.nix;
  linkIdRules = import ./link-ids.nix;
  names = import ./names.nix;
  vmDirectory = import ./vm-directory.nix;
  orThrow = import ./problems.nix;

  inherit (import ./choices.nix) hypervisors accelerators;
in
{
  pkgs,
  vmDir,
  # A directory that mkVmDirectory made tells its name, providers and shares.
  name ? vmDir.vmName or null,
  hypervisor ? "cloud-hypervisor",
  # QEMU's: a build cannot find out whether the host that will run it has a usable
  # KVM, so that auto is kvm here.
  accel ? "auto",
  memory ? 1024,
  vcpus ? 1,
  linkPorts ? 8,
  # In MiB, a power of two; null for the program's default.
  waylandMemory ? null,
  devices ? [ ],
  # Whether it is connected to the host's network, and the ports of the host that lead to it.
  uplink ? false,
  ports ? [ ],
  # The user and the group of the guest that own the shared directories there; null for root.
  guestUid ? null,
  guestGid ? null,
  # The same for single directories: guestIds.TAG has guest-uid, guest-gid or both.
  guestIds ? { },
  linkIds ? { },
  providers ? vmDir.providers or null,
  shares ? vmDir.shares or null,
  allow ? { },
  # The tools, each of which can be another.
  microvm-spectrum ? pkgs.microvm-spectrum or (pkgs.callPackage ../package.nix { }),
  cloud-hypervisor ? pkgs.cloud-hypervisor,
  iproute2 ? pkgs.iproute2,
  nftables ? pkgs.nftables,
  passt ? pkgs.passt,
  qemu ? pkgs.qemu_kvm,
  virtiofsd ? pkgs.virtiofsd,
}:
let
  inherit (pkgs) lib;

  isBuilt = vmDirectory.isBuilt vmDir;
  vmName = if name != null then name else vmDirectory.name vmDir;
  found = vmDirectory.read vmDir;

  # Tags, with the directory that is shared where it is known: Nix cannot read links.
  shareSources =
    if builtins.isAttrs shares then
      shares
    else
      builtins.listToAttrs (
        map
          (tag: {
            name = tag;
            value = null;
          })
          (
            if shares != null then
              shares
            else if isBuilt then
              [ ]
            else
              found.shares
          )
      );
  shareTags = builtins.attrNames shareSources;
  providerNames = builtins.sort builtins.lessThan (
    if providers != null then
      providers
    else if isBuilt then
      [ ]
    else
      found.providers
  );

  links = map (
    provider:
    linkIdRules.link vmName provider (
      if linkIds ? ${provider} then
        linkIdRules.normal linkIds.${provider}
      else
        linkIdRules.derive vmName provider
    )
  ) providerNames;

  differs =
    what: declared: is:
    if builtins.sort builtins.lessThan declared == builtins.sort builtins.lessThan is then
      [ ]
    else
      [
        "${vmName}: the argument ${what} names ${builtins.toJSON declared}, and the VM directory ${builtins.toJSON is}"
      ];

  problemsOfPlace =
    if name == null && (isBuilt || vmDirectory.isNameless vmDir) then
      [
        "mkRunner needs the argument name for a vmDir that is a path of the store, which does not tell the VM's name"
      ]
    else if isBuilt then
      names.check "a VM's name" name
    else if !vmDirectory.exists vmDir then
      [
        "the VM directory ${toString vmDir} does not exist (in a flake that lies in Git: git add it)"
      ]
    else
      names.check "a VM's name" vmName;

  problemsOfContent =
    (if isBuilt || providers == null then [ ] else differs "providers" providers found.providers)
    ++ (if isBuilt || shares == null then [ ] else differs "shares" shareTags found.shares)
    ++ builtins.concatMap (names.check "${vmName}: a network provider") providerNames
    ++ (
      if builtins.elem vmName providerNames then
        [ "${vmName}: would provide its own network; remove providers/net/${vmName}" ]
      else
        [ ]
    )
    ++ builtins.concatMap (
      provider:
      if builtins.elem provider providerNames then
        linkIdRules.check "${vmName}: linkIds.${provider}" linkIds.${provider}
      else
        [ "${vmName}: linkIds.${provider} is set, and ${provider} is none of its network providers" ]
    ) (builtins.attrNames linkIds)
    ++ (
      if builtins.elem hypervisor hypervisors then
        [ ]
      else
        [
          "${vmName}: hypervisor cannot be ${builtins.toJSON hypervisor}; there are ${builtins.concatStringsSep " and " hypervisors}"
        ]
    )
    ++ (
      if builtins.elem accel accelerators then
        [ ]
      else
        [
          "${vmName}: accel cannot be ${builtins.toJSON accel}; there are ${builtins.concatStringsSep ", " accelerators}"
        ]
    )
    ++ map (tag: "${vmName}: guestIds.${tag} is set, and ${tag} is none of its shared directories") (
      builtins.filter (tag: !builtins.elem tag shareTags) (builtins.attrNames guestIds)
    )
    ++ (
      if ports != [ ] && !uplink then
        [ "${vmName}: ports are forwarded by an uplink; set uplink = true" ]
      else
        [ ]
    )
    ++ (
      if accel == "tcg" && hypervisor == "cloud-hypervisor" then
        [ ''${vmName}: cloud-hypervisor always uses KVM; accel = "tcg" takes hypervisor = "qemu"'' ]
      else
        [ ]
    )
    ++ (
      if hypervisor == "cloud-hypervisor" && cloudHypervisor.isTooOld cloud-hypervisor then
        [
          "${vmName}: ${cloudHypervisor.problem cloud-hypervisor "the argument cloud-hypervisor"}, or hypervisor = \"qemu\""
        ]
      else
        [ ]
    );

  # Only where the ids themselves are fine.
  problems =
    if problemsOfPlace != [ ] then
      problemsOfPlace
    else if problemsOfContent != [ ] then
      problemsOfContent
    else
      linkIdRules.collisions (link: "${vmName}: set linkIds.${link.provider}") links;

  tools = {
    microvm-spectrum = "${microvm-spectrum}/bin/microvm-spectrum";
  }
  // (
    if hypervisor == "qemu" then
      let
        program = "qemu-system-${pkgs.stdenv.hostPlatform.qemuArch}";
      in
      {
        ${program} = "${qemu}/bin/${program}";
      }
    else
      {
        cloud-hypervisor = "${cloud-hypervisor}/bin/cloud-hypervisor";
      }
  )
  // lib.optionalAttrs (shareTags != [ ]) { virtiofsd = "${virtiofsd}/bin/virtiofsd"; }
  // lib.optionalAttrs uplink { passt = "${passt}/bin/passt"; }
  // lib.optionalAttrs (providerNames != [ ]) {
    ip = "${iproute2}/bin/ip";
    nft = "${nftables}/bin/nft";
  };

  buildProgram = import ./build-program.nix {
    inherit pkgs;
    package = microvm-spectrum;
  };

  guestIdOptions =
    tag: ids:
    lib.concatMap
      (kind: lib.optional ((ids.${kind} or null) != null) "--${kind}=${tag}${toString ids.${kind}}")
      [
        "guest-uid"
        "guest-gid"
      ];

  # All that decides what is built, besides the VM directory.
  options = [
    "--shares-elsewhere"
    "--hypervisor=${hypervisor}"
    "--memory=${toString memory}"
    "--vcpus=${toString vcpus}"
    "--link-ports=${toString linkPorts}"
  ]
  ++ lib.optional (hypervisor == "qemu") "--accel=${if accel == "auto" then "kvm" else accel}"
  ++ lib.optional (waylandMemory != null) "--wayland-memory=${toString waylandMemory}"
  ++ map (device: "--device=${device}") devices
  ++ lib.optional uplink "--uplink"
  ++ map (port: "--port=${port}") ports
  ++ guestIdOptions "" {
    guest-uid = guestUid;
    guest-gid = guestGid;
  }
  ++ lib.concatLists (lib.mapAttrsToList (tag: guestIdOptions "${tag}=") guestIds)
  ++ map (link: "--link=${link.provider}=${link.id}") links
  ++ lib.mapAttrsToList (prefix: directory: "--allow=${prefix}=${directory}") allow
  ++ lib.mapAttrsToList (tool: path: "--tool=${tool}=${path}") tools;

  # What identifies this version of the VM, and its user partition.
  system =
    pkgs.runCommand "microvm-spectrum-system-${vmName}"
      {
        directory =
          if isBuilt then
            "${vmDir}"
          else
            builtins.path {
              path = vmDirectory.place vmDir;
              name = vmName;
            };
        arguments = lib.escapeShellArgs options;
        declared = builtins.toJSON {
          providers = providerNames;
          shares = shareSources;
        };
        passAsFile = [
          "arguments"
          "declared"
        ];
      }
      ''
        mkdir -p $out/svc/data
        ln -s "$directory" $out/svc/data/${vmName}
        cp "$argumentsPath" $out/arguments
        cp "$declaredPath" $out/declared.json
      '';

  runner =
    pkgs.runCommand "microvm-spectrum-${vmName}"
      {
        passthru = {
          inherit
            hypervisor
            links
            nixosConfiguration
            system
            vmDir
            vmName
            ;
          providers = providerNames;
          shares = shareSources;
          linkIds = builtins.listToAttrs (map (link: lib.nameValuePair link.provider link.id) links);
          # The supervisor tells systemd that the VM runs.
          supportsNotifySocket = true;
          # microvm.nix would have systemd-machined know the VM.
          registerWithMachined = false;
          # bin/microvm-shutdown presses the power button.
          canShutdown = true;
          tapMultiQueue = false;
        };
        meta = {
          description = "Runner package of the Spectrum VM ${vmName}";
          mainProgram = "microvm-run";
          platforms = [
            "x86_64-linux"
            "aarch64-linux"
          ];
        };
      }
      ''
        ${buildProgram} build ${system}/svc/data/${vmName} --user-partition ${system} \
          --declared ${system}/declared.json --system ${system} --output package \
          ${lib.escapeShellArgs options}
        mv package $out
      '';

  # What microvm.nix's host module and its command `microvm` read of a flake's
  # nixosConfigurations.<name>.
  nixosConfiguration = {
    inherit pkgs;
    config = {
      microvm = {
        inherit hypervisor;
        declaredRunner = runner;
        runner.${hypervisor} = runner;
        mem = memory;
        vcpu = vcpus;
        # Its host module makes those directories that are missing, and takes their
        # paths for names of attributes, which no path of a package can be.
        shares = builtins.concatMap (
          tag:
          let
            source = builtins.unsafeDiscardStringContext (toString shareSources.${tag});
          in
          lib.optional (shareSources.${tag} != null && !lib.hasPrefix builtins.storeDir source) {
            inherit source tag;
            proto = "virtiofs";
          }
        ) shareTags;
      };
      networking.hostName = vmName;
      system.build.toplevel = system;
    };
  };
in
orThrow problems runner
