# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# `microvm -c`, `-u` and `-l` on a flake. The machine has no network, so all that the
# flake evaluates and builds is on it beforehand.
{ microvm, microvm-spectrum }:
{
  name = "microvm-spectrum-under-microvm-nix-imperative";

  nodes.host =
    { lib, pkgs, ... }:
    let
      vms = microvm-spectrum.packages.${pkgs.stdenv.hostPlatform.system};
      # A flake without inputs, with what was built: the command takes any.
      flake = pkgs.writeText "flake.nix" ''
        {
          outputs =
            _:
            let
              present = path: builtins.appendContext path { ''${path}.path = true; };
            in
            {
              nixosConfigurations.appvm-hello.config = {
                microvm.declaredRunner = present "${vms.vm-appvm-hello}";
                microvm.shares = [ ];
                system.build.toplevel = present "${vms.vm-appvm-hello.system}";
              };
            };
        }
      '';
    in
    {
      imports = [ microvm.nixosModules.host ];
      nix.settings = {
        experimental-features = [
          "nix-command"
          "flakes"
        ];
        substituters = lib.mkForce [ ];
      };
      environment.etc."vms/flake.nix".source = flake;
      virtualisation = {
        additionalPaths = [ vms.vm-appvm-hello ];
        memorySize = 2048;
        cores = 2;
        writableStore = true;
      };
    };

  testScript = ''
    import re

    def listed():
        # Names and states have colours of their own.
        return re.sub(r"\x1b\[[0-9;]*m", "", host.succeed("microvm -l"))

    host.wait_for_unit("multi-user.target")
    host.succeed("mkdir /root/vms && cp -L /etc/vms/flake.nix /root/vms/")
    host.succeed("microvm -f path:/root/vms -c appvm-hello")
    assert re.search(r"^appvm-hello: current\(.*not booted", listed(), re.MULTILINE)
    host.succeed("systemctl start microvm@appvm-hello.service", timeout=600)
    host.wait_until_succeeds("journalctl -u microvm@appvm-hello | grep 'guest: ready'", timeout=300)
    host.succeed("microvm -u appvm-hello")
    assert re.search(r"^appvm-hello: current\([^)]*\)$", listed(), re.MULTILINE)
    host.succeed("systemctl stop microvm@appvm-hello.service", timeout=300)
    host.succeed("journalctl -u microvm@appvm-hello | grep 'the guest powered off'")
  '';
}
