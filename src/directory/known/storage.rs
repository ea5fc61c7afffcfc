// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What file systems are on: only those of the kernel's on local storage tell every change.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{fstatfs, major, minor};

/// Where the kernel shows block devices by their numbers.
const SYS: &str = "/sys/dev/block";
/// The file systems on one block device whose times tell every change: ext2 to ext4, XFS, F2FS
/// (`linux/magic.h`).
const ON_A_DISK: [u64; 3] = [0xef53, 0x5846_5342, 0xf2f5_2010];
/// The file system in memory. Each has new files, with times of their own.
const TMPFS: u64 = 0x0102_1994;
/// What stands for a disk where a file system is in memory.
const MEMORY: u64 = 0;

/// The disks of devices. The kernel gives each disk that appears another number, so a disk
/// that was away and came back, perhaps written elsewhere, has another.
#[derive(Debug)]
pub struct Storage {
    sys: PathBuf,
    known: BTreeMap<u64, Option<u64>>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { sys: PathBuf::from(SYS), known: BTreeMap::new() }
    }
}

impl Storage {
    /// The disk of the device with this number, which holds the file `fd`; nothing if the
    /// times of its files may not tell every change. A file that is a disk may belong to a
    /// user, who can write to it past the file system.
    pub fn of(&mut self, device: u64, fd: BorrowedFd<'_>) -> Option<u64> {
        if let Some(known) = self.known.get(&device) {
            return *known;
        }
        #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
        let kind = fstatfs(fd).ok().map(|found| found.f_type as u64 & 0xffff_ffff);
        let found = match kind {
            Some(TMPFS) => Some(MEMORY),
            Some(kind) if ON_A_DISK.contains(&kind) => self.disk(device),
            _ => None,
        };
        self.known.insert(device, found);
        found
    }

    fn disk(&self, device: u64) -> Option<u64> {
        let shown = self.sys.join(format!("{}:{}", major(device), minor(device))).canonicalize().ok()?;
        // A partition lies in its disk.
        let disk = [Some(shown.as_path()), shown.parent()].into_iter().flatten();
        let disk = disk.into_iter().find(|path| path.join("diskseq").exists())?;
        if disk.join("loop").exists() {
            return None;
        }
        std::fs::read_to_string(disk.join("diskseq")).ok()?.trim_end().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn disks_have_numbers_and_files_that_are_disks_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, number: &str| {
            let disk = dir.path().join(name);
            fs::create_dir_all(disk.join("part")).unwrap();
            fs::write(disk.join("diskseq"), format!("{number}\n")).unwrap();
            disk
        };
        symlink(disk("vda", "7"), dir.path().join("8:0")).unwrap();
        symlink(disk("vdb", "9").join("part"), dir.path().join("8:1")).unwrap();
        let of_a_file = disk("loop0", "11");
        fs::create_dir(of_a_file.join("loop")).unwrap();
        symlink(of_a_file, dir.path().join("7:0")).unwrap();
        fs::create_dir(dir.path().join("0:30")).unwrap();
        let storage = Storage { sys: dir.path().to_owned(), known: BTreeMap::new() };
        let of = |major, minor| storage.disk(rustix::fs::makedev(major, minor));
        assert_eq!([of(8, 0), of(8, 1)], [Some(7), Some(9)]);
        assert_eq!([of(7, 0), of(0, 30), of(8, 2)], [None; 3], "in doubt");
    }

    #[test]
    fn file_systems_of_other_kinds_are_in_doubt() {
        let of = |path: &str| {
            let file = fs::File::open(path).unwrap();
            Storage::default().of(rustix::fs::fstat(&file).unwrap().st_dev, file.as_fd())
        };
        assert_eq!(of("/proc/self"), None);
    }
}
