// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A disk image with one partition, which has the label `root`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use crate::base::problem::Problem;
use crate::base::tool;
use crate::system::program;

/// Where the partition begins, and what is left for the table's copy behind it, in bytes.
const MARGIN: u64 = 1 << 20;

/// A tool's path.
///
/// # Errors
/// When it is not in `path`; `package` has it.
pub(super) fn find(name: &str, package: &str, path: &OsStr) -> Result<std::path::PathBuf, Problem> {
    tool::find(name, path).ok_or_else(|| {
        Problem::host(name, "is not in PATH", format!("install package {package} of Debian or Nixpkgs"))
    })
}

/// Makes an image with a squashfs of the archive that `write` writes. `of_root`: all in it belongs
/// to root, whoever it belongs to in the archive.
///
/// # Errors
/// Those of `write` and of the tools.
pub(super) fn squash(
    image: &Path,
    of_root: bool,
    tools: &Tools,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut command = Command::new(&tools.sqfstar);
    command.args([
        "-quiet",
        "-no-progress",
        "-root-mode",
        "755",
        // Fast to make and to read; the others make it a third smaller.
        "-comp",
        "lz4",
    ]);
    command.arg("-offset").arg(MARGIN.to_string());
    if of_root {
        command.arg("-all-root");
    }
    program::feed(command.arg(image), |mut input| write(&mut input))?;
    partition(image, tools)
}

/// Makes an image with a partition that has the content of `file_system`.
///
/// # Errors
/// When reading or writing fails, and those of the tools.
pub(super) fn wrap(image: &Path, file_system: &mut File, tools: &Tools) -> io::Result<()> {
    let to = File::create_new(image)?;
    let (mut at, mut buffer) = (MARGIN, vec![0; 1 << 20]);
    loop {
        let length = file_system.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        // What is not written stays a hole.
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(bytes, at)?;
        }
        at = at.saturating_add(length as u64);
    }
    to.set_len(at)?;
    partition(image, tools)
}

/// The tools that make images.
#[derive(Debug)]
pub(super) struct Tools {
    sqfstar: std::path::PathBuf,
    sfdisk: std::path::PathBuf,
}

impl Tools {
    /// # Errors
    /// When one is missing.
    pub(super) fn find(path: &OsStr) -> Result<Self, Problem> {
        // Debian has sfdisk where only root looks.
        let mut directories = path.to_owned();
        directories.push(":/usr/sbin:/sbin");
        Ok(Self {
            sqfstar: find("sqfstar", "squashfs-tools (4.5 or later)", path)?,
            sfdisk: find("sfdisk", "fdisk", &directories)?,
        })
    }
}

/// Gives an image its table, for what lies between the margins from the first byte on.
fn partition(image: &Path, tools: &Tools) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(image)?;
    let end = file.metadata()?.len().next_multiple_of(MARGIN);
    file.set_len(end.saturating_add(MARGIN))?;
    let (start, size) = (MARGIN / 512, end.saturating_sub(MARGIN) / 512);
    let table = format!("label: gpt\nstart={start}, size={size}, name=root\n");
    let mut command = Command::new(&tools.sfdisk);
    program::output(command.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(image), &table)?;
    std::fs::set_permissions(image, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}
