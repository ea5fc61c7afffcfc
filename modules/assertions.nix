# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What no single option shows: each mistake with its place and its remedy, and
# all of them at once.
{
  config,
  lib,
  options,
  ...
}:
let
  cfg = config.services.microvm-spectrum;
  inherit (cfg) settings sources vms;
  network = import ./network.nix { inherit lib; };

  at =
    path:
    lib.showOption (
      [
        "services"
        "microvm-spectrum"
      ]
      ++ path
    );
  vm =
    name:
    at [
      "vms"
      name
    ];
  source = n: "${at [ "sources" ]}, entry ${toString n}";
  each = f: set: lib.concatLists (lib.mapAttrsToList f set);
  unless = holds: message: lib.optional (!holds) message;
  # Every value that is there twice, with the places that have it.
  twice =
    entries: f:
    each (value: same: lib.optional (lib.length same > 1) (f value (map (entry: entry.place) same))) (
      lib.groupBy (entry: toString entry.value) entries
    );
  both = lib.concatStringsSep " and ";

  isName = name: builtins.match "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}" name != null;
  nameRule = "a name is 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin with . or -; rename it";
  isAbsolute = path: builtins.match "/.*" path != null;

  sourceProblems = lib.concatLists (
    lib.imap1 (
      n: entry:
      let
        here = "${source n} (${entry.name})";
      in
      unless (isName entry.name) "${here}: ${nameRule}"
      ++ unless (
        entry.name != "configuration"
      ) "${here}: so are the VMs called that are in ${at [ "vms" ]}; rename it"
      ++
        unless (entry.path == null || entry.partuuid == null)
          "${here} has a path and a partuuid: keep path if you mount it, partuuid if it is to be mounted when it appears"
      ++ unless (
        entry.path != null || entry.partuuid != null
      ) "${here} has neither a path nor a partuuid: write where it is"
      ++ unless (
        entry.partuuid == null || entry.kind == "user-partition"
      ) "${here} has a partuuid and is no user-partition: mount it, and write its path"
      ++ unless (
        entry.path == null || isAbsolute entry.path
      ) "${here}: the path ${entry.path} is not absolute; write it from / on"
    ) sources
  );
  sourceNames = twice (lib.imap1 (n: entry: {
    value = entry.name;
    place = source n;
  }) sources) (name: places: "${both places} have the name ${name}; rename one");

  # What a package decides by itself.
  ofVmDirs = {
    providers = null;
    shares = null;
    hypervisor = null;
    memory = null;
    vcpus = null;
    accel = null;
    linkPorts = null;
    allow = { };
    linkIds = { };
    devices = [ ];
  };
  besideRunner = [
    "runner"
    "autostart"
    "uid"
    "restart-if-changed"
  ];
  vmProblems =
    name: own:
    let
      superfluous = lib.filter (option: own.${option} != ofVmDirs.${option}) (lib.attrNames ofVmDirs);
      more = lib.filterAttrs (_: value: value != null && value != { } && value != [ ]) (
        removeAttrs settings.vm.${name} besideRunner
      );
      unlinked = lib.filter (provider: !lib.elem provider own.links.providers) (
        lib.attrNames own.linkIds
      );
    in
    unless (isName name) "${vm name}: ${nameRule}"
    ++ unless (
      own.vmDir == null || own.runner == null
    ) "${vm name} has both vmDir and runner: keep one of them"
    ++ unless (
      own.vmDir != null || own.runner != null
    ) "${vm name} has neither vmDir nor runner: set one of them"
    ++
      lib.optional (own.runner != null && own.vmDir == null && superfluous != [ ])
        "${vm name} has a runner, which decides about ${both superfluous} by itself: remove that here, and build the runner with it"
    ++
      lib.optional (settings.vm ? ${name} && more != { })
        "${
          at [
            "settings"
            "vm"
            name
          ]
        } sets ${both (lib.attrNames more)} for a VM of ${at [ "vms" ]}: set it there"
    ++
      lib.optional (own.vmDir != null && own.runner == null && own.links.providers == null)
        "${vm name}: the vmDir is built, and is not read before; set providers to the names in its providers/net, [ ] for none"
    ++
      lib.optional (own.vmDir != null && cfg.mkRunner == null)
        "${vm name}: what builds packages is missing; import nixosModules.default of microvm-spectrum's flake, or set ${at [ "mkRunner" ]}"
    ++ lib.optionals (own.runner == null && own.links.providers != null) (
      map (
        provider:
        "${
          at [
            "vms"
            name
            "linkIds"
            provider
          ]
        }: ${provider} provides no network to ${name}; remove it"
      ) unlinked
    )
    ++
      map
        (
          provider:
          "${
            at [
              "vms"
              name
              "linkIds"
              provider
            ]
          }: the ids 0000 and ffff are not used; choose another"
        )
        (
          lib.filter (
            provider:
            lib.elem (lib.toLower own.linkIds.${provider}) [
              "0000"
              "ffff"
            ]
          ) (lib.attrNames own.linkIds)
        );

  # VMs of sources can provide networks, too, and are not known here.
  graph = lib.mapAttrs (_: own: own.links) vms;
  unknownProviders = lib.optionals (settings.source == [ ]) (
    each (
      name: own:
      map (
        provider:
        "${vm name}: its network provider ${provider} is none of ${at [ "vms" ]}; add it there, or remove providers/net/${provider}"
      ) (lib.filter (provider: !vms ? ${provider}) (if own.providers == null then [ ] else own.providers))
    ) graph
  );
  cycles = map (
    cycle:
    "${at [ "vms" ]}: a VM cannot provide its own network, over others or not: ${lib.concatStringsSep " -> " cycle}; remove one of these from the providers of the one before"
  ) (network.cyclesOf graph);

  # Settings of VMs of sources declare ids, devices and users, too.
  settingsOfSources = removeAttrs settings.vm (lib.attrNames vms);
  declared = lib.mapAttrs (_: own: {
    providers = null;
    linkIds = own.links;
  }) settingsOfSources;
  optionOf =
    link:
    if vms ? ${link.client} then
      at [
        "vms"
        link.client
        "linkIds"
        link.provider
      ]
    else
      at [
        "settings"
        "vm"
        link.client
        "links"
        link.provider
      ];
  links = network.linksOf (graph // declared);
  linkCollisions = map (
    same:
    let
      name = link: "${link.client} -> ${link.provider}";
      last = lib.last same;
    in
    "the links ${both (map name same)} have the same id ${last.id}; set ${optionOf last} = \"${network.freeId links last.id}\""
  ) (network.collisionsOf links);

  # The program would refuse the configuration as a whole.
  settingsProblems = each (
    key: own:
    let
      here = at [
        "settings"
        "vm"
        key
      ];
      parts = builtins.match "([^/]*)/.*" key;
      named = if parts != null then lib.head parts else null;
      ofThis = lib.filter (
        source: if named != null then source.name == named else lib.length settings.source == 1
      ) settings.source;
      mayNot = lib.filter (
        source: source.kind == "user-partition" && !(source.autostart or false)
      ) ofThis;
    in
    lib.optionals (own.runner == null) (
      unless (ofThis != [ ])
        "${here} names no VM of a source: write SOURCE/NAME with the name of one of the ${at [ "sources" ]}; NAME alone is enough where there is only one"
      ++ lib.optionals (own.autostart == true) (
        map (
          source:
          "${here}.autostart: VMs of the source ${source.name} may not start with the host; set autostart = true for the source, or remove it here"
        ) mayNot
      )
    )
  ) settingsOfSources;

  entriesOf =
    option: values:
    each (
      name: own:
      map (value: {
        inherit value;
        place = at [
          "vms"
          name
          option
        ];
      }) (values own)
    ) vms
    ++ each (
      name: own:
      map (value: {
        inherit value;
        place = at [
          "settings"
          "vm"
          name
          option
        ];
      }) (values own)
    ) settingsOfSources;
  devices = twice (entriesOf "devices" (own: own.devices)) (
    device: places: "${both places} list the PCI device ${device}; give it to one VM, once"
  );
  uids = twice (entriesOf "uid" (own: lib.optional (own.uid != null) own.uid)) (
    uid: places: "${both places} are both ${uid}; change one of them"
  );

  toolProblems = map (
    name:
    "${
      at [
        "settings"
        "tools"
        name
      ]
    }: the path ${settings.tools.${name}} is not absolute; write it from / on"
  ) (lib.filter (name: !isAbsolute settings.tools.${name}) (lib.attrNames settings.tools));

  besideMicrovmNix = lib.optional (options ? microvm && config.microvm.host.enable or false) ''
    ${at [ "enable" ]} and microvm.host.enable, microvm.nix's own host module, define the same units: set microvm.host.enable = false, and all packages run under those of microvm-spectrum, or ${at [ "enable" ]} = false, and install microvm-spectrum's packages by microvm.vms.
  '';
in
{
  assertions = lib.optionals cfg.enable (
    map
      (message: {
        assertion = false;
        inherit message;
      })
      (
        besideMicrovmNix
        ++ sourceProblems
        ++ sourceNames
        ++ each vmProblems vms
        ++ unknownProviders
        ++ cycles
        ++ settingsProblems
        ++ linkCollisions
        ++ devices
        ++ uids
        ++ toolProblems
      )
  );
}
