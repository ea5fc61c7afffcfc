// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a probe of KVM has found out, kept until the host boots again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kvm_probe;
use crate::base::architecture::Architecture;
use crate::base::versioned;
use crate::directory::stamp::FileStamp;
use crate::system::{durable, trust};

/// Where root keeps it.
pub const PATH: &str = "/run/microvm-spectrum/kvm.json";
/// The version of that file.
const VERSION: u32 = 1;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the result of a probe depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Of {
    boot: String,
    qemu: PathBuf,
    program: FileStamp,
    /// The device changes when the module is loaded anew; there may be none.
    kvm: Option<FileStamp>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    of: Of,
    /// Why KVM does not work, if it does not.
    why_not: Option<String>,
}

impl Of {
    fn now(qemu: &Path) -> io::Result<Self> {
        let stamp = |path: &Path| Ok::<_, io::Error>(FileStamp::new("", &rustix::fs::stat(path)?));
        Ok(Self {
            boot: std::fs::read_to_string(BOOT_ID)?.trim_end().to_owned(),
            qemu: qemu.to_owned(),
            program: stamp(qemu)?,
            kvm: durable::if_present(stamp(Path::new("/dev/kvm")))?,
        })
    }
}

/// The result of [`kvm_probe::probe`], and whether it is new: the file `record` has that of
/// this boot, for the same QEMU, where root alone could write it.
pub fn probe(record: &Path, qemu: &Path, architecture: Architecture) -> (Result<(), String>, bool) {
    let of = Of::now(qemu).ok();
    if let Some(known) = read(record).filter(|known| Some(&known.of) == of.as_ref()) {
        return (known.why_not.map_or(Ok(()), Err), false);
    }
    let result = kvm_probe::probe(qemu, architecture);
    if let Some(of) = of {
        let new = Record { version: VERSION, of, why_not: result.clone().err() };
        // Without a record, the next sync finds it out again.
        let _ = write(record, &new);
    }
    (result, true)
}

fn read(record: &Path) -> Option<Record> {
    let text = std::fs::read_to_string(trust::resolve(record).ok()?).ok()?;
    versioned::parse(&text, "a record", VERSION).ok()
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    let text = versioned::text_of(record)?;
    path.parent().map_or(Ok(()), durable::ensure_directory)?;
    durable::replace_file_in_memory(path, &text, 0o644)
}
