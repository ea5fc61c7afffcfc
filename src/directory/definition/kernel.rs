// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `vmlinux`: the kernel's file and its format.

use std::path::Path;

use rustix::fs::FileType;

use super::{Directory, Reader, text};
use crate::base::architecture::Architecture;
use crate::directory::stamp::FileStamp;

const ENTRY: &str = "vmlinux";
/// How much of a file shows its format.
const HEAD_BYTES: u64 = 1024;

/// Why Spectrum cannot boot a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelFormatError {
    /// A compressed x86 kernel.
    #[error("is a bzImage, a compressed kernel; Spectrum boots the uncompressed ELF file")]
    BzImage,
    /// A compressed file, by the name of its format.
    #[error("is compressed with {0}; Spectrum boots the uncompressed kernel")]
    Compressed(&'static str),
    /// A kernel for another architecture than the host's.
    #[error("is a kernel for {found}, this VM needs one for {wanted}")]
    Architecture {
        /// What the file is for.
        found: String,
        /// What it should be for.
        wanted: &'static str,
    },
    /// No known format.
    #[error("is neither an ELF file nor an arm64 Image")]
    Unknown,
    /// An arm64 `Image` where only ELF boots.
    #[error("is an arm64 Image, this VM needs an ELF kernel for x86_64")]
    Arm64Image,
}

impl KernelFormatError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::BzImage => {
                "extract it with scripts/extract-vmlinux from the kernel's sources: \
                 extract-vmlinux bzImage > vmlinux (or use the vmlinux of the kernel's build directory)"
            }
            Self::Compressed("gzip") => "extract it: gzip -dc < Image.gz > vmlinux",
            Self::Compressed(_) => "decompress it with the program for that format",
            Self::Architecture { .. } | Self::Arm64Image => {
                "use a kernel that was built for this host's architecture"
            }
            Self::Unknown => {
                "use the vmlinux of the kernel's build directory (on aarch64, arch/arm64/boot/Image will do)"
            }
        }
    }
}

/// Checks the first kilobyte of a file: whether it is a kernel that boots.
///
/// Sources: the ELF header (System V ABI, `e_ident` and `e_machine`), the x86
/// boot protocol (`Documentation/arch/x86/boot.rst`: `0xAA55` at 0x1fe and
/// `HdrS` at 0x202), and `Documentation/arch/arm64/booting.rst` (`ARM\x64` at 0x38).
pub(super) fn check_format(head: &[u8], wanted: Architecture) -> Result<(), KernelFormatError> {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(bytes));
    if at(0, b"\x7fELF") {
        // 64-bit, little-endian, then the machine's number.
        let machine = match (head.get(4..6), head.get(18..20)) {
            (Some([2, 1]), Some([low, high])) => u16::from_le_bytes([*low, *high]),
            (Some([1, _]), _) => {
                return Err(KernelFormatError::Architecture {
                    found: "a 32-bit machine".to_owned(),
                    wanted: wanted.as_str(),
                });
            }
            _ => return Err(KernelFormatError::Unknown),
        };
        let expected = match wanted {
            Architecture::X86_64 => 62,
            Architecture::Aarch64 => 183,
        };
        if machine == expected {
            return Ok(());
        }
        let found = match machine {
            62 => "x86_64".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "riscv".to_owned(),
            other => format!("ELF machine {other}"),
        };
        return Err(KernelFormatError::Architecture { found, wanted: wanted.as_str() });
    }
    if at(0x38, b"ARM\x64") {
        return match wanted {
            Architecture::Aarch64 => Ok(()),
            Architecture::X86_64 => Err(KernelFormatError::Arm64Image),
        };
    }
    if at(0x1fe, b"\x55\xaa") && at(0x202, b"HdrS") {
        return Err(KernelFormatError::BzImage);
    }
    let compressed: [(&[u8], &str); 6] = [
        (b"\x1f\x8b", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x89LZO", "lzo"),
    ];
    match compressed.iter().find(|(magic, _)| at(0, magic)) {
        Some((_, name)) => Err(KernelFormatError::Compressed(name)),
        None => Err(KernelFormatError::Unknown),
    }
}

impl Reader<'_> {
    /// The kernel's path; `None` after reporting its problem.
    pub(super) fn kernel(&mut self, top: &Directory) -> Option<String> {
        let entry = Path::new(ENTRY);
        let found = self.find(top, entry, FileType::RegularFile, "put an uncompressed Linux kernel there")?;
        self.exposure.pass(&found, entry);
        let architecture = self.architecture;
        let checked = self.partition.kernels.get(&found, HEAD_BYTES, |head| check_format(head, architecture));
        match checked {
            Ok(Ok(())) => {
                let shown = self.shown(ENTRY);
                if let Some(contents) = &mut self.contents {
                    contents.kernel(&shown, &found, architecture);
                }
            }
            Ok(Err(error)) => {
                self.problems.error(self.shown(ENTRY), error.to_string(), error.remedy());
                return None;
            }
            Err(error) => {
                self.unreadable(ENTRY, &error);
                return None;
            }
        }
        match text::usable(found.path.as_os_str()) {
            Ok(path) => {
                self.stamps.push(FileStamp::new(ENTRY, &found.stat));
                self.keep(ENTRY, path)
            }
            Err(why) => {
                self.problems.error(found.path, format!("the kernel's path {why}"), text::REMEDY);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn elf(class: u8, machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    fn with(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 1024];
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        head
    }

    #[test]
    fn knows_the_formats() {
        use Architecture::{Aarch64, X86_64};
        assert_eq!(check_format(&elf(2, 62), X86_64), Ok(()));
        assert_eq!(check_format(&elf(2, 183), Aarch64), Ok(()));
        assert_eq!(check_format(&with(0x38, b"ARM\x64"), Aarch64), Ok(()));
        assert_eq!(check_format(&with(0x38, b"ARM\x64"), X86_64), Err(KernelFormatError::Arm64Image));
        let wrong = |head: &[u8], arch, text: &str| {
            let error = check_format(head, arch).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        wrong(&elf(2, 183), X86_64, "for aarch64, this VM needs one for x86_64");
        wrong(&elf(2, 62), Aarch64, "for x86_64, this VM needs one for aarch64");
        wrong(&elf(1, 3), X86_64, "32-bit");
        let mut bz = with(0x202, b"HdrS");
        bz[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        assert_eq!(check_format(&bz, X86_64), Err(KernelFormatError::BzImage));
        assert!(KernelFormatError::BzImage.remedy().contains("extract-vmlinux"));
        let gzip = check_format(b"\x1f\x8b\x08", Aarch64).unwrap_err();
        assert!(gzip.remedy().contains("gzip -dc"));
        assert_eq!(check_format(b"", X86_64), Err(KernelFormatError::Unknown));
        assert_eq!(check_format(b"\x7fELF", X86_64), Err(KernelFormatError::Unknown));
        assert_eq!(check_format(b"MZ program", X86_64), Err(KernelFormatError::Unknown));
    }

    proptest! {
        #[test]
        fn never_panics(head in proptest::collection::vec(any::<u8>(), 0..600), elf in any::<bool>()) {
            let mut head = head;
            if elf {
                head.splice(0..0, *b"\x7fELF");
            }
            let _ = check_format(&head, Architecture::X86_64);
            let _ = check_format(&head, Architecture::Aarch64);
        }
    }
}
