// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Whether KVM works here, found out by using it.
//!
//! `/dev/kvm` may exist and be of no use (nested virtualisation that is broken,
//! for example), so the probe runs a guest of a few instructions in the very
//! QEMU that will run the VM: it counts for a while and then ends QEMU with a
//! status of its own through the `isa-debug-exit` device. A processor does that
//! in some milliseconds; whatever is slower or fails is not usable.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use crate::base::architecture::Architecture;

/// How long the probe may take altogether.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The value that the guest writes, and QEMU's status for it, `value << 1 | 1`
/// (QEMU's `hw/misc/debugexit.c`).
const EXIT_VALUE: u8 = 0x2a;
const EXIT_STATUS: i32 = (EXIT_VALUE as i32) << 1 | 1;
/// The I/O port of the device.
const EXIT_PORT: u8 = 0xf4;
/// The size of the firmware, which ends at the top of the first megabyte.
const FIRMWARE_BYTES: usize = 0x10000;

/// Whether guests of `qemu` can use KVM, and if not, why.
///
/// # Errors
/// Why KVM cannot be used, as one line.
pub fn probe(qemu: &Path, architecture: Architecture) -> Result<(), String> {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm cannot be opened: {error}"));
    }
    match architecture {
        Architecture::X86_64 => run(qemu),
        // The device exists on x86 only; there, an open /dev/kvm must do.
        Architecture::Aarch64 => Ok(()),
    }
}

fn run(qemu: &Path) -> Result<(), String> {
    let system = |error: std::io::Error| format!("the probe could not be run: {error}");
    // Inherited by QEMU, so not closed on execution.
    let firmware_fd =
        rustix::fs::memfd_create("kvm-probe", MemfdFlags::empty()).map_err(|e| system(e.into()))?;
    let mut firmware_file = std::fs::File::from(firmware_fd);
    firmware_file.write_all(&firmware()).and_then(|()| firmware_file.rewind()).map_err(system)?;
    let mut child = Command::new(qemu)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "1M"])
        .arg("-bios")
        .arg(format!("/proc/self/fd/{}", firmware_file.as_raw_fd()))
        .args(["-device", &format!("isa-debug-exit,iobase=0x{EXIT_PORT:x},iosize=1")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(system)?;
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(system)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "a guest did not get through a short loop in {} s",
                    PROBE_TIMEOUT.as_secs()
                ));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.code() == Some(EXIT_STATUS) {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stderr.take().map(|pipe| pipe.take(4096).read_to_string(&mut said));
    let last = said.lines().last().unwrap_or("it gave no reason");
    Err(format!("KVM does not work here (a small guest ended QEMU with {status}: {last})"))
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
    fn a_program_that_is_no_qemu_is_refused_in_words() {
        if let Err(why) = run(Path::new("/bin/false")) {
            assert!(why.contains("ended QEMU with"), "{why}");
        } else {
            panic!("/bin/false cannot run guests");
        }
        assert!(run(Path::new("/nonexistent")).unwrap_err().contains("could not be run"));
    }
}
