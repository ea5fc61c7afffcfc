// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a probe of KVM has found out, kept until the host boots again.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kvm_probe::{self, NoKvm};
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
/// this boot, for the same QEMU, where root alone could write it, unless KVM was slow.
pub fn probe(record: &Path, qemu: &Path, architecture: Architecture) -> (Result<(), NoKvm>, bool) {
    probe_by(record, qemu, || kvm_probe::probe(qemu, architecture))
}

fn probe_by(
    record: &Path,
    qemu: &Path,
    probe: impl FnOnce() -> Result<(), NoKvm>,
) -> (Result<(), NoKvm>, bool) {
    let of = Of::now(qemu).ok();
    if let Some(known) = read(record).filter(|known| Some(&known.of) == of.as_ref()) {
        return (known.why_not.map_or(Ok(()), |why| Err(NoKvm::Broken(why))), false);
    }
    let result = probe();
    // What is slow now may not be next time.
    if let Some(of) = of.filter(|_| result != Err(NoKvm::Slow)) {
        let why_not = result.clone().err().map(|why| why.to_string());
        let new = Record { version: VERSION, of, why_not };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_now_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (record, qemu) = (dir.path().join("kvm.json"), std::env::current_exe().unwrap());
        assert_eq!(probe_by(&record, &qemu, || Err(NoKvm::Slow)), (Err(NoKvm::Slow), true));
        assert!(!record.exists());
        let broken = || Err(NoKvm::Broken("it fails".to_owned()));
        assert_eq!(probe_by(&record, &qemu, broken), (broken(), true));
        assert!(record.exists());
    }
}
