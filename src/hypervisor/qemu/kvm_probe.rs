// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether KVM works here, found out by using it.
//!
//! `/dev/kvm` may exist and be of no use (broken nested virtualisation, for
//! example), so the probe runs a guest of a few instructions in the very QEMU
//! that will run the VM: the guest counts for a while and then ends QEMU with a
//! status of its own through the `isa-debug-exit` device. A processor does that
//! in some milliseconds; KVM that is slower or fails is not usable.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use crate::base::architecture::Architecture;
use crate::system::program::{self, ProgramError};

/// Why guests do not use KVM here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKvm {
    /// It does not work, for the reason given as a clause.
    #[error("{0}")]
    Broken(String),
    /// It works too slowly, or the host has too much to do at the moment.
    #[error("slow: a test guest did not finish in {} s", PROBE_TIMEOUT.as_secs())]
    Slow,
}

/// How long the probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The value that the guest writes, and QEMU's status for it, `value << 1 | 1`
/// (QEMU's `hw/misc/debugexit.c`).
const EXIT_VALUE: u8 = 0x2a;
const EXIT_STATUS: i32 = (EXIT_VALUE as i32) << 1 | 1;
/// The I/O port of the device.
const EXIT_PORT: u8 = 0xf4;
/// The size of the firmware, which ends at the top of the first megabyte.
const FIRMWARE_BYTES: usize = 0x10000;

/// Whether guests of `qemu` can use KVM.
///
/// # Errors
/// See [`NoKvm`].
pub fn probe(qemu: &Path, architecture: Architecture) -> Result<(), NoKvm> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Err(NoKvm::Broken(format!("/dev/kvm cannot be opened: {error}")));
    }
    match architecture {
        Architecture::X86_64 => run(qemu),
        // The device exists on x86 only; there, an open /dev/kvm must do.
        Architecture::Aarch64 => Ok(()),
    }
}

fn run(qemu: &Path) -> Result<(), NoKvm> {
    let failed = |error: io::Error| NoKvm::Broken(format!("the test guest cannot be run: {error}"));
    let firmware = inherited_firmware().map_err(failed)?;
    let mut command = Command::new(qemu);
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "1M"])
        .arg("-bios")
        .arg(format!("/proc/self/fd/{}", firmware.as_raw_fd()))
        .args(["-device", &format!("isa-debug-exit,iobase=0x{EXIT_PORT:x},iosize=1")]);
    match program::output_until(&mut command, Instant::now() + PROBE_TIMEOUT) {
        Err(ProgramError::Failed { status, .. }) if status.code() == Some(EXIT_STATUS) => Ok(()),
        Err(ProgramError::Failed { status, said, .. }) => {
            Err(NoKvm::Broken(format!("a test guest ended QEMU with {status}: {said}")))
        }
        Err(ProgramError::TimedOut { .. }) => Err(NoKvm::Slow),
        Err(error) => Err(failed(error.into())),
        Ok(_) => Err(NoKvm::Broken("a test guest ended QEMU in good order".to_owned())),
    }
}

/// The firmware in a file that QEMU inherits: it is not closed on execution.
fn inherited_firmware() -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("kvm-probe", MemfdFlags::empty())?);
    file.write_all(&firmware())?;
    file.rewind()?;
    Ok(file)
}

/// A firmware whose reset vector counts down from 2^24 and ends QEMU.
fn firmware() -> Vec<u8> {
    #[rustfmt::skip]
    let program = [
        0xfa,                                     // cli
        0x66, 0xb9, 0x00, 0x00, 0x00, 0x01,       // mov ecx, 0x01000000
        0x66, 0x49,                               // dec ecx
        0x75, 0xfc,                               // jnz -4
        0xb0, EXIT_VALUE,                         // mov al, value
        0xe6, EXIT_PORT,                          // out port, al
        0xf4,                                     // hlt
    ];
    // The processor starts 16 bytes before the end, and these are 16 bytes.
    let mut firmware = vec![0xf4; FIRMWARE_BYTES - program.len()];
    firmware.extend_from_slice(&program);
    firmware
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_fills_the_reset_vector() {
        let firmware = firmware();
        assert_eq!(firmware.len(), FIRMWARE_BYTES);
        assert_eq!(firmware[FIRMWARE_BYTES - 16], 0xfa);
    }

    #[test]
    fn tells_slow_from_broken() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        std::fs::write(&qemu, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
        let slow = run(&qemu).unwrap_err();
        assert_eq!(
            (&slow, slow.to_string()),
            (&NoKvm::Slow, "slow: a test guest did not finish in 2 s".to_owned())
        );
    }

    #[test]
    fn says_why_a_program_is_no_qemu() {
        let why = run(Path::new("false")).unwrap_err().to_string();
        assert!(why.contains("ended QEMU with exit status: 1"), "{why}");
        assert!(run(Path::new("/nonexistent")).unwrap_err().to_string().contains("cannot be run"));
    }
}
