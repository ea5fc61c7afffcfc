// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The state directory: one folder for each VM, and what `sync` keeps.
//!
//! ```text
//! /var/lib/microvms
//! ├── NAME/current -> ../.microvm-spectrum/current/vms/NAME
//! ├── NAME/booted  -> what is running, a package without further links
//! └── .microvm-spectrum
//!     ├── current -> generations/N         the one link that is switched
//!     ├── generations/N/catalog.json
//!     ├── generations/N/vms/NAME -> ../../../packages/IDENTITY-microvm-NAME
//!     ├── packages/IDENTITY-microvm-NAME   a runner package
//!     ├── staging/                         one that is put into a Nix store
//!     ├── leases.json
//!     └── lock
//! ```
//!
//! The first two lines are microvm.nix's; no VM can have a name that begins
//! with a dot. Everything belongs to root.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::name::VmName;

/// Where it is when nobody says otherwise, microvm.nix's.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/microvms";

/// Where the directories are in which VMs run, one for each.
pub const RUNTIME_DIRECTORY: &str = "/run/microvm";
/// Where the directories are in which VMs' shared directories are served.
pub const SHARES_DIRECTORY: &str = "/run/microvm-virtiofsd";

/// The paths in one state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory {
    root: PathBuf,
}

impl StateDirectory {
    /// The state directory at `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What belongs to this program alone.
    pub fn own(&self) -> PathBuf {
        self.root.join(".microvm-spectrum")
    }

    /// Held by whoever changes something.
    pub fn lock(&self) -> PathBuf {
        self.own().join("lock")
    }

    /// The leases.
    pub fn leases(&self) -> PathBuf {
        self.own().join("leases.json")
    }

    /// The link to the current generation.
    pub fn current_generation(&self) -> PathBuf {
        self.own().join("current")
    }

    /// The text of that link for a generation.
    pub fn generation_link(&self, generation: u64) -> PathBuf {
        Path::new("generations").join(generation.to_string())
    }

    /// All generations.
    pub fn generations(&self) -> PathBuf {
        self.own().join("generations")
    }

    /// One generation.
    pub fn generation(&self, generation: u64) -> PathBuf {
        self.generations().join(generation.to_string())
    }

    /// The current catalog.
    pub fn catalog(&self) -> PathBuf {
        self.current_generation().join("catalog.json")
    }

    /// All runner packages.
    pub fn packages(&self) -> PathBuf {
        self.own().join("packages")
    }

    /// Where packages are before they are put into a store.
    pub fn staging(&self) -> PathBuf {
        self.own().join("staging")
    }

    /// A VM's folder.
    pub fn vm(&self, name: &VmName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// The link to what a VM's next start runs.
    pub fn current(&self, name: &VmName) -> PathBuf {
        self.vm(name).join("current")
    }

    /// The link to what is running.
    pub fn booted(&self, name: &VmName) -> PathBuf {
        self.vm(name).join("booted")
    }

    /// The text of `current` in a folder that belongs to this program.
    pub fn current_link(name: &VmName) -> PathBuf {
        Path::new("../.microvm-spectrum/current/vms").join(name.as_str())
    }

    /// Whether a VM's folder is there and belongs to somebody else, such as
    /// the `microvm` command.
    pub fn is_anothers(&self, name: &VmName) -> bool {
        match std::fs::read_link(self.current(name)) {
            Ok(link) => link != Self::current_link(name),
            // What is no directory, such as a link to nowhere, is no folder of ours.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = self.vm(name);
                folder.symlink_metadata().is_ok() && !folder.is_dir()
            }
            Err(_) => true,
        }
    }

    /// The text of a VM's link in a generation; `package` may be an absolute path.
    pub fn package_link(package: &str) -> PathBuf {
        Path::new("../../../packages").join(package)
    }
}
