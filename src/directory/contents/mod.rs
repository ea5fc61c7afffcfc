// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What the kernel and the images hold: whether a VM directory can boot.
//!
//! Only `check` of a directory looks this deep. A stranger wrote these files, so each
//! subject bounds what it reads, and all together have `TIME`.

mod file_system;
mod kernel_config;
mod partition_table;
mod parts;
mod pvh_entry;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::file_system::FileSystem;
use self::kernel_config::KernelConfig;
use self::partition_table::Table;
use self::parts::{Parts, Unread};
use crate::base::architecture::Architecture;
use crate::base::problem::Problems;
use crate::directory::boundary::Resolved;

/// How long all files of a VM directory may be read, from the first on.
const TIME: Duration = Duration::from_secs(10);

/// What the kernel needs to reach any root partition.
const DRIVERS: [(&str, &[&str]); 3] = [
    ("the PCI bus of virtio", &["VIRTIO_PCI"]),
    ("virtio-blk", &["VIRTIO_BLK"]),
    ("the partition table", &["EFI_PARTITION"]),
];

/// What an image holds that is to become a VM's.
#[derive(Debug)]
pub enum Held {
    /// A file system, of this name, from its first byte on.
    FileSystem(&'static str),
    /// A partition `root`.
    Root,
    /// Neither, and what it has instead.
    Other(String),
}

/// What an image of `length` bytes holds.
///
/// # Errors
/// When it cannot be read in time.
pub fn held(image: File, length: u64) -> io::Result<Held> {
    let late = |unread| match unread {
        Unread::Io(error) => error,
        Unread::Late => io::ErrorKind::TimedOut.into(),
    };
    let image = Parts::new(image, Instant::now() + TIME);
    if let Some(found) = FileSystem::at(&image, 0).map_err(late)? {
        return Ok(Held::FileSystem(found.name));
    }
    Ok(match partition_table::read(&image, length).map_err(late)? {
        Table::Root(_) => Held::Root,
        Table::Without(what) => Held::Other(what),
    })
}

/// What was found so far in the files of one VM directory.
#[derive(Debug)]
pub struct Contents {
    deadline: Instant,
    kernel: Option<(PathBuf, KernelConfig)>,
    root: Option<Option<&'static FileSystem>>,
    /// What the images without a root partition have, in words.
    others: Vec<String>,
    /// How many images are to come, or were not examined.
    unknown: usize,
    problems: Problems,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            deadline: Instant::now() + TIME,
            kernel: None,
            root: None,
            others: Vec::new(),
            unknown: 0,
            problems: Problems::default(),
        }
    }
}

impl Contents {
    /// Looks inside a kernel of the right format, which problems show as `shown`.
    pub fn kernel(&mut self, shown: &Path, file: &Resolved, architecture: Architecture) {
        let found = self.parts(file).and_then(|kernel| {
            let boots = architecture != Architecture::X86_64 || pvh_entry::has_entry(&kernel)?;
            Ok((boots, KernelConfig::find(&kernel)?))
        });
        let Some((boots, config)) = self.found(shown, found) else { return };
        if !boots {
            self.problems.error(
                shown,
                "has no PVH entry (the ELF note XEN_ELFNOTE_PHYS32_ENTRY), from which both hypervisors boot it",
                "use the vmlinux of a kernel that was built with CONFIG_PVH=y",
            );
        }
        self.kernel = config.map(|config| (shown.to_owned(), config));
    }

    /// So many images follow.
    pub fn expect(&mut self, images: usize) {
        self.unknown = images;
    }

    /// Looks inside an image, which problems show as `shown`.
    pub fn image(&mut self, shown: &Path, file: &Resolved) {
        let length = u64::try_from(file.stat.st_size).unwrap_or_default();
        let found = self.parts(file).and_then(|image| {
            Ok(match partition_table::read(&image, length)? {
                Table::Root(start) => Ok((start, FileSystem::at(&image, start)?)),
                Table::Without(what) => Err(what),
            })
        });
        match self.found(shown, found) {
            Some(Ok((start, file_system))) => {
                self.unknown = self.unknown.saturating_sub(1);
                if file_system.is_none() {
                    let cause =
                        format!("its partition 'root', from byte {start} on, has no known file system");
                    self.problems.note(
                        shown,
                        cause,
                        "make one there, such as an erofs, a squashfs or an ext4",
                    );
                }
                self.root.get_or_insert(file_system);
            }
            Some(Err(what)) => {
                self.unknown = self.unknown.saturating_sub(1);
                let name = shown.file_name().unwrap_or_default().display();
                self.others.push(format!("{name} {what}"));
            }
            None => {}
        }
    }

    /// All problems. The images are in the directory `shown`.
    pub fn problems(mut self, shown: &Path) -> Problems {
        let initramfs = self.kernel.as_ref().is_some_and(|(_, config)| config.has_initramfs());
        // An image that could not be examined might have the partition.
        if self.root.is_none() && !self.others.is_empty() && self.unknown == 0 {
            let cause = format!(
                "no image has the GPT partition 'root', which the kernel mounts (root=PARTLABEL=root): {}",
                self.others.join("; ")
            );
            let remedy = "put the root file system into a GPT partition with the name 'root' (sfdisk: 'label: \
                          gpt', 'name=root')";
            match initramfs {
                true => self.problems.note(shown, cause, remedy),
                false => self.problems.error(shown, cause, remedy),
            }
        }
        let root = self.root.flatten().map(|found| (found.name, found.options));
        if let Some((kernel, config)) = &self.kernel {
            let missing: Vec<_> = DRIVERS
                .into_iter()
                .chain(root)
                .filter_map(|(what, options)| lack(config, what, options))
                .collect();
            if !missing.is_empty() {
                let (causes, remedies): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
                let cause = format!(
                    "cannot mount the root partition, and a VM directory has no initrd: {}",
                    causes.join(", ")
                );
                let remedy = format!("build the kernel with {}", remedies.join(" "));
                match initramfs {
                    true => self.problems.note(kernel, cause, remedy),
                    false => self.problems.error(kernel, cause, remedy),
                }
            }
        }
        self.problems
    }

    fn parts(&self, file: &Resolved) -> Result<Parts, Unread> {
        Ok(Parts::new(file.open_file()?, self.deadline))
    }

    /// What was found; `None` after reporting why it is unknown.
    fn found<T>(&mut self, shown: &Path, found: Result<T, Unread>) -> Option<T> {
        match found {
            Ok(found) => return Some(found),
            Err(Unread::Io(error)) => self.problems.error(
                shown,
                format!("cannot be read: {error}"),
                "check its permissions and the state of the file system",
            ),
            Err(Unread::Late) => self.problems.note(
                shown,
                format!(
                    "was not examined: reading this VM directory takes more than {} seconds",
                    TIME.as_secs()
                ),
                "check it again when its file system answers faster",
            ),
        }
        None
    }
}

/// What a kernel lacks because none of the `options` is built in, and the remedy.
fn lack(config: &KernelConfig, what: &str, options: &[&str]) -> Option<(String, String)> {
    let values: Vec<_> = options.iter().filter_map(|option| config.value(option)).collect();
    if values.contains(&"y") {
        return None;
    }
    let first = options.first()?;
    let state = if values.contains(&"m") { "is a module" } else { "is missing" };
    Some((format!("{what} {state}"), format!("CONFIG_{first}=y")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::boundary::Boundary;

    #[test]
    fn what_takes_too_long_is_noted_and_not_blamed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), [0; 4096]).unwrap();
        let user_partition = directory.path().canonicalize().unwrap();
        let file = Boundary { user_partition, allowed: Vec::new() }.resolve(Path::new("file")).unwrap();
        let over = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let mut contents = Contents { deadline: over, ..Contents::default() };
        contents.kernel(Path::new("/vm/vmlinux"), &file, Architecture::X86_64);
        contents.expect(1);
        contents.image(Path::new("/vm/blk/a.img"), &file);
        let problems = contents.problems(Path::new("/vm/blk"));
        assert!(!problems.has_errors());
        let texts: Vec<_> = problems.into_sorted().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts.iter().all(|text| text.contains("was not examined")), "{texts:?}");
    }
}
