// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The processor architecture, which host and guest share.

use serde::{Deserialize, Serialize};

/// An architecture that Spectrum runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Architecture {
    /// The architecture that this program was built for; `None` where Spectrum does not run.
    pub fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    /// Its name in Nix, the kernel and QEMU.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The kernel command line of every Spectrum VM.
    ///
    /// Source: Spectrum's `host/start-vmm/lib.rs`.
    pub fn kernel_command_line(self) -> &'static str {
        match self {
            Self::X86_64 => "console=ttyS0 root=PARTLABEL=root",
            Self::Aarch64 => "root=PARTLABEL=root",
        }
    }
}
