# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# What evaluation needs to know of a VM directory: which VMs provide its networks,
# and the tags of its shared directories. All else is the program's to judge, when
# the runner package is built.
let
  # A name in a directory that is, or leads to, a directory.
  isDirectory = type: type == "directory" || type == "symlink";

  namesIn =
    directory: name:
    let
      entries = builtins.readDir directory;
    in
    if isDirectory (entries.${name} or "") then
      builtins.attrNames (builtins.readDir (directory + "/${name}"))
    else
      [ ];
in
rec {
  # Whether a VM directory comes out of a build. To read it would build it during
  # evaluation.
  isBuilt =
    vmDir:
    !builtins.isPath vmDir
    && builtins.any (context: context ? outputs || context ? allOutputs) (
      builtins.attrValues (builtins.getContext "${vmDir}")
    );

  # A path, in every form that builtins.readDir takes.
  place = vmDir: if builtins.isPath vmDir then vmDir else "${vmDir}";

  exists = vmDir: builtins.pathExists (place vmDir + "/.");

  # Whether its last name is that of a path of the store, such as a whole flake's.
  isNameless = vmDir: dirOf (toString vmDir) == builtins.storeDir;

  # The last name of a path: of a VM directory the VM's.
  name = vmDir: builtins.unsafeDiscardStringContext (baseNameOf (toString vmDir));

  read =
    vmDir:
    let
      directory = place vmDir;
    in
    {
      providers =
        if builtins.elem "net" (namesIn directory "providers") then
          namesIn (directory + "/providers") "net"
        else
          [ ];
      shares = namesIn directory "shared-dirs";
    };
}
