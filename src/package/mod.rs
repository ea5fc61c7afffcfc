// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Runner packages: the directories that microvm.nix's conventions describe.
//!
//! [`planning`] decides how a VM runs. A package is a pure function of that [`Plan`]:
//! [`Package::of`] lays out every file in memory, [`Package::write`] puts it on disk in
//! one step. [`whose()`] tells this program's packages from others. All stages from the
//! [`config`](crate::config) on may use it.

pub mod identity;
pub mod older;
pub mod planning;
mod publish;
mod scripts;
mod whose;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

pub use publish::{WriteError, check_output};
pub use scripts::Script;
pub use whose::{Whose, whose};

use crate::base::problem::{self, Problems};
use crate::base::versioned::DocumentError;
use crate::directory::stamp::FileStamp;
use crate::plan::Plan;

/// The path of the manifest in a package.
pub const MANIFEST: &str = "share/microvm-spectrum/manifest.json";

/// One entry of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file, mode 0644.
    File(String),
    /// An executable file, mode 0755.
    Executable(String),
    /// A symbolic link and its target.
    Link(PathBuf),
}

/// A runner package in memory: its entries by their paths, without directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package(pub BTreeMap<PathBuf, Entry>);

impl Package {
    /// Lays out the package of a plan.
    ///
    /// A file exists only if it means something, because units test for it. Source of
    /// the layout: microvm.nix, "Conventions between MicroVM packages and the host".
    pub fn of(plan: &Plan) -> Self {
        let scripts = scripts::of(plan).into_iter();
        let mut entries: BTreeMap<_, _> =
            scripts.map(|script| (script.path(), Entry::Executable(scripts::render(plan, script)))).collect();
        let mut add = |path: &str, entry: Entry| {
            entries.insert(PathBuf::from(path), entry);
        };
        add("share/microvm/hypervisor", Entry::File(format!("{}\n", plan.hypervisor)));
        if !plan.interfaces.is_empty() {
            let taps: String = plan.interfaces.iter().map(|i| format!("{}\n", i.tap)).collect();
            add("share/microvm/tap-interfaces", Entry::File(taps));
            add("share/microvm/tap-flags", Entry::File("vnet_hdr\n".to_owned()));
        }
        if !plan.pci_devices.is_empty() {
            let devices: String = plan.pci_devices.iter().map(|device| format!("{device}\n")).collect();
            add("share/microvm/pci-devices", Entry::File(devices));
        }
        for share in &plan.shares {
            let directory = format!("share/microvm/virtiofs/{}", share.tag);
            add(&format!("{directory}/source"), Entry::File(format!("{}\n", share.source)));
            add(&format!("{directory}/socket"), Entry::File(format!("{}\n", share.socket)));
        }
        // `share/microvm/system` identifies this version by its text, and must not dangle.
        let manifest = plan.to_manifest();
        let version = format!("sha256-{}", hex(&Sha256::digest(&manifest)));
        add(MANIFEST, Entry::File(manifest));
        add(&format!("share/microvm-spectrum/{version}"), Entry::Link("manifest.json".into()));
        add("share/microvm/system", Entry::Link(Path::new("../microvm-spectrum").join(version)));
        Self(entries)
    }

    /// Makes `share/microvm/system` a link to `system`, which then identifies this
    /// version: in Nix, `system.build.toplevel`.
    #[must_use]
    pub fn identified_by(mut self, system: PathBuf) -> Self {
        self.0.insert(PathBuf::from("share/microvm/system"), Entry::Link(system));
        self
    }

    /// Writes the package to `output` in one step: complete, or not at all.
    ///
    /// With `force` it replaces an existing package, also in one step, and returns where
    /// that is now if it cannot be removed.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write(&self, output: &Path, force: bool) -> Result<Option<PathBuf>, WriteError> {
        publish::publish(self, output, force)
    }

    /// Whether `directory` is a package with all entries of this one, as they are here.
    ///
    /// # Errors
    /// When one of them cannot be looked at.
    pub fn is_in(&self, directory: &Path) -> io::Result<bool> {
        publish::has_entries(self, directory)
    }

    /// Writes the package into an empty directory, which the caller must sync.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub fn write_into(&self, directory: &Path) -> Result<(), WriteError> {
        publish::write_entries(self, directory)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not exist, or this user cannot read it.
    #[error("{} cannot be read: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// Its manifest has errors.
    #[error("{} {error}", .path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        error: DocumentError,
    },
    /// The files of the [older convention](older) have errors.
    #[error("{} has errors", .path.display())]
    Files {
        /// Their directory.
        path: PathBuf,
        /// The errors.
        problems: Problems,
    },
}

impl LoadError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }

    /// Whether the host failed, and not the package.
    pub fn is_hosts(&self) -> bool {
        matches!(self, Self::Io { error, .. } if problem::is_hosts(error))
    }
}

/// The stamp of the manifest of the package in `directory`. It changes when another
/// package takes this one's place.
///
/// # Errors
/// When there is no manifest.
pub fn stamp(directory: &Path) -> io::Result<FileStamp> {
    Ok(FileStamp::new(MANIFEST, &rustix::fs::stat(directory.join(MANIFEST))?))
}

/// Reads the plan of the package at `path`: the package's directory or one of its
/// scripts in `bin/`, or a symbolic link to either.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Plan, LoadError> {
    let real = path.canonicalize().map_err(LoadError::at(path))?;
    let directory = if real.is_dir() { Some(real.as_path()) } else { real.parent().and_then(Path::parent) };
    let manifest = directory.unwrap_or(&real).join(MANIFEST);
    let text = std::fs::read_to_string(&manifest).map_err(LoadError::at(&manifest))?;
    Plan::from_manifest(&text).map_err(|error| LoadError::Manifest { path: manifest, error })
}
