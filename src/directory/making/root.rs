// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What becomes a VM's root file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::image::{self, Tools};
use super::template::Template;
use super::{archive, copy};
use crate::base::problem::{Problem, Problems};
use crate::directory::contents::{self, Held};
use crate::system::program;

/// What becomes a VM's root file system.
#[derive(Debug, Clone)]
pub enum Root {
    /// A directory tree, an archive of tar's, or an image.
    Path(PathBuf),
    /// An archive of tar's, from standard input.
    Stdin,
    /// A small system of this host's busybox.
    Template(Template),
}

/// Programs that uncompress, the packages that have them, and how their files begin.
const COMPRESSIONS: [(&str, &str, &[u8]); 4] = [
    ("gzip", "gzip", &[0x1f, 0x8b]),
    ("xz", "xz-utils", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    ("zstd", "zstd", &[0x28, 0xb5, 0x2f, 0xfd]),
    ("bzip2", "bzip2", b"BZh"),
];

/// Where an archive of tar's has its magic number (POSIX, "ustar Interchange Format").
const USTAR: (usize, &[u8]) = (257, b"ustar");

const REMEDY: &str = "give a directory, an archive of tar's, or an image of ext4, erofs or squashfs";

impl Root {
    /// Writes it as a disk image; `tags` are those of the VM's shared directories.
    ///
    /// # Errors
    /// When it is none of these, cannot be read or lacks something, and when a tool is missing
    /// or fails.
    pub(super) fn write(&self, image: &Path, tags: &[&str], path: &OsStr) -> Result<(), Problems> {
        match self {
            Self::Path(from) => write_path(from, image, tags, path),
            Self::Stdin => {
                let tools = Tools::find(path)?;
                let written = image::squash(image, false, &tools, |mut to| {
                    archive::copy(io::stdin().lock(), &mut to, tags)
                });
                written.map_err(|error| refused(Path::new("-"), error).into())
            }
            Self::Template(template) => {
                let (tools, parts) = (Tools::find(path)?, template.find_parts(path)?);
                let written = image::squash(image, true, &tools, |mut to| {
                    archive::copy(parts.archive()?.as_slice(), &mut to, tags)
                });
                written.map_err(|error| refused(image, error).into())
            }
        }
    }
}

fn write_path(from: &Path, image: &Path, tags: &[&str], path: &OsStr) -> Result<(), Problems> {
    let refused = |error| Problems::from(refused(from, error));
    let metadata = from.metadata().map_err(refused)?;
    if metadata.is_dir() {
        let (tools, tar) = (Tools::find(path)?, image::find("tar", "tar", path)?);
        let mut command = Command::new(tar);
        command.args(["--create", "--file=-", "--one-file-system", "--numeric-owner"]);
        command.args(["--xattrs", "--xattrs-include=security.capability", "--directory"]);
        // What an ordinary user has unpacked belongs to this user.
        return image::squash(image, metadata.uid() != 0, &tools, |mut to| {
            program::drain(command.arg(from).arg("."), Stdio::null(), |out| archive::copy(out, &mut to, tags))
        })
        .map_err(refused);
    }
    if !metadata.is_file() {
        return Err(Problem::error(from, "is neither a directory nor a regular file", REMEDY).into());
    }
    let mut file = File::open(from).map_err(refused)?;
    let mut head = vec![0; 512];
    let length = file.read(&mut head).map_err(refused)?;
    head.truncate(length);
    file.rewind().map_err(refused)?;
    let compression = COMPRESSIONS.iter().find(|(_, _, magic)| head.starts_with(magic));
    if let Some((program, package, _)) = compression {
        let tools = Tools::find(path)?;
        let mut command = Command::new(image::find(program, package, path)?);
        return image::squash(image, false, &tools, |mut to| {
            program::drain(command.arg("-dc"), file.into(), |out| archive::copy(out, &mut to, tags))
        })
        .map_err(refused);
    }
    if head.get(USTAR.0..).is_some_and(|rest| rest.starts_with(USTAR.1)) {
        let tools = Tools::find(path)?;
        return image::squash(image, false, &tools, |mut to| archive::copy(&file, &mut to, tags))
            .map_err(refused);
    }
    // What is added to an image would need its file system mounted, and so root.
    match contents::held(file.try_clone().map_err(refused)?, metadata.len()).map_err(refused)? {
        Held::Root => copy(from, image).map_err(Problems::from),
        Held::FileSystem(_) => {
            file.rewind().map_err(refused)?;
            image::wrap(image, &mut file, &Tools::find(path)?).map_err(refused)
        }
        Held::Other(what) => Err(Problem::error(from, format!("is no archive, and {what}"), REMEDY).into()),
    }
}

/// Why a root file system was not written.
fn refused(from: &Path, error: io::Error) -> Problem {
    let cause = format!("cannot become a root file system: {error}");
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
            Problem::error(from, cause, REMEDY)
        }
        _ => Problem::host(from, cause, "check what the tool says, permissions, and the space on the disk"),
    }
}
