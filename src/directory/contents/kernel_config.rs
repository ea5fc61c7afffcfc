// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a kernel was built with, if it holds its configuration (`CONFIG_IKCONFIG`).

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::parts::{Parts, Unread};

/// What stands before the compressed configuration (Linux's `kernel/configs.c`), with
/// the first bytes of gzip.
const START: &[u8] = b"IKCFG_ST\x1f\x8b\x08";
/// How far into a kernel it is looked for, in bytes: what follows is for debuggers.
const MAX_KERNEL: u64 = 128 << 20;
/// How much is read at a time, in bytes.
const STEP: usize = 1 << 20;
/// The most bytes of a configuration, compressed or not; a large one has 300 KiB.
const MAX_CONFIG: usize = 2 << 20;

/// The text of a kernel's configuration.
#[derive(Debug)]
pub(super) struct KernelConfig(String);

impl KernelConfig {
    /// The configuration in a kernel; `None` when it holds none that can be read.
    pub(super) fn find(kernel: &Parts) -> Result<Option<Self>, Unread> {
        let finder = memchr::memmem::Finder::new(START);
        // Each step also reads the first bytes of the next.
        for start in (0..MAX_KERNEL).step_by(STEP) {
            let part = kernel.read(start, STEP.saturating_add(START.len()))?;
            if let Some(found) = finder.find(&part.0) {
                // gzip's magic number has three bytes.
                let gzip = start.saturating_add(found as u64).saturating_add(START.len() as u64 - 3);
                return Ok(Self::unpacked(&kernel.read(gzip, MAX_CONFIG)?.0));
            }
            if part.0.len() < STEP {
                break;
            }
        }
        Ok(None)
    }

    fn unpacked(gzip: &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        GzDecoder::new(gzip).take(MAX_CONFIG as u64).read_to_end(&mut text).ok()?;
        (text.len() < MAX_CONFIG).then(|| Self(String::from_utf8_lossy(&text).into_owned()))
    }

    /// The value of an option, as the configuration has it behind `=`.
    pub(super) fn value(&self, option: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix("CONFIG_")?.strip_prefix(option)?.strip_prefix('='))
    }

    /// Whether the kernel holds an initramfs, which can load modules.
    pub(super) fn has_initramfs(&self) -> bool {
        self.value("INITRAMFS_SOURCE").is_some_and(|source| !source.trim_matches('"').is_empty())
    }
}
