# SPDX-License-Identifier: EUPL-1.2
# SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

# Boots an example VM and attaches to its console; it ends with the console.
{ appvm-hello, writeShellApplication }:
writeShellApplication {
  name = "microvm-spectrum-demo";
  text = ''
    directory=$(mktemp -d)
    cd "$directory"
    echo "Booting ${appvm-hello.vmName}, which takes some seconds without KVM. Its serial console: $directory/serial.log" >&2
    ${appvm-hello}/bin/microvm-run >serial.log 2>messages.log &
    vm=$!
    trap 'kill -TERM "$vm" 2>/dev/null || true; wait "$vm" || true; rm -rf "$directory"' EXIT
    until grep -q "guest: ready" serial.log; do
      if ! kill -0 "$vm" 2>/dev/null; then
        cat messages.log >&2
        exit 1
      fi
      sleep 0.2
    done
    echo "Try: mount -t virtiofs greeting /mnt; cat /mnt/hello.txt. Ctrl-] ends it." >&2
    ${appvm-hello}/bin/microvm-console
    ${appvm-hello}/bin/microvm-shutdown
  '';
}
