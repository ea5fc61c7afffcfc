// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether a QEMU can show a guest's windows, found out by asking it.
//!
//! Distributions build QEMU with and without its virtio-gpu device with the cross-domain
//! context. `-device help` lists the devices that there are; asking for this one
//! alone (`-device NAME,help`) ends well where it is missing, too.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::WAYLAND_DEVICE;
use crate::system::program::{self, ProgramError};

/// How long QEMU may take to list its devices.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Whether `qemu` can show a guest's windows. One that cannot be executed here, because
/// it is only on the host that will run the VM, counts as one that can.
///
/// # Errors
/// Why it cannot, as a clause.
pub fn probe(qemu: &Path) -> Result<(), String> {
    let mut command = Command::new(qemu);
    command.args(["-no-user-config", "-device", "help"]);
    match program::output_until(&mut command, Instant::now() + PROBE_TIMEOUT) {
        Ok(listed) if lists(&String::from_utf8_lossy(&listed), WAYLAND_DEVICE) => Ok(()),
        Ok(_) => Err(format!("{} is built without the device {WAYLAND_DEVICE}", qemu.display())),
        Err(ProgramError::NotExecuted { error, .. }) if is_elsewhere(&error) => Ok(()),
        Err(error) => Err(format!("the devices of QEMU cannot be listed: {error}")),
    }
}

/// Whether a program with this error is missing, or for another architecture.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::NOEXEC))
}

/// Whether the text of `-device help` has this device.
fn lists(text: &str, device: &str) -> bool {
    let name = format!("name \"{device}\"");
    text.lines().any(|line| line.split(',').next() == Some(&*name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const LISTED: &str =
        "Display devices:\nname \"virtio-gpu-rutabaga-pci\", bus PCI, alias \"virtio-gpu-rutabaga\"\n";

    #[test]
    fn finds_the_device_and_no_other() {
        assert!(lists(LISTED, WAYLAND_DEVICE));
        for other in [
            "",
            "virtio-gpu-rutabaga-pci\n",
            "name \"virtio-gpu-rutabaga-device\", bus virtio-bus\n",
            "name \"x\", desc \"name \"virtio-gpu-rutabaga-pci\"\"\n",
        ] {
            assert!(!lists(other, WAYLAND_DEVICE), "{other}");
        }
    }

    #[test]
    fn goes_by_what_it_prints_and_not_by_its_status() {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert_eq!(probe(&stand_in("with", &format!("#!/bin/sh\ncat <<'END'\n{LISTED}END\n"))), Ok(()));
        let why =
            probe(&stand_in("without", "#!/bin/sh\necho 'name \"virtio-gpu-pci\", bus PCI'\n")).unwrap_err();
        assert!(why.ends_with("without is built without the device virtio-gpu-rutabaga-pci"), "{why}");
        let why = probe(&stand_in("failing", "#!/bin/sh\necho error: no >&2; exit 1\n")).unwrap_err();
        assert!(why.contains("cannot be listed") && why.contains("error: no"), "{why}");
        let why = probe(dir.path()).unwrap_err();
        assert!(why.contains("cannot be executed"), "{why}");
        // Neither is on the host that builds the package.
        assert_eq!(probe(Path::new("/nonexistent/qemu")), Ok(()));
        assert_eq!(probe(&stand_in("another-architecture", "\x7fELF")), Ok(()));
    }
}
