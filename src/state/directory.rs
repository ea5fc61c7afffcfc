// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The state directory: a folder for each VM, and the program's own.
//!
//! ```text
//! /var/lib/microvms
//! ├── NAME/current -> ../.microvm-spectrum/current/vms/NAME
//! ├── NAME/booted  -> the running VM's package, free of links
//! └── .microvm-spectrum
//!     ├── current -> generations/N         the one link that sync switches
//!     ├── generations/N/catalog.json
//!     ├── generations/N/vms/NAME -> ../../../packages/IDENTITY-microvm-NAME
//!     ├── packages/IDENTITY-microvm-NAME   a runner package
//!     ├── staging/                         a package on its way into the Nix store
//!     ├── leases.json
//!     ├── known.json                       what sync need not read again
//!     ├── unused/NAME                      a VM that has leases and has never run
//!     └── lock
//! ```
//!
//! `current` and `booted` are microvm.nix's. No VM's name begins with a dot.
//! Everything belongs to root.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::name::VmName;
use crate::state::look::{is_directory, is_missing, unless_missing};

/// The default place of the state directory, microvm.nix's.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/microvms";

/// Holds a directory for each running VM, in which the VM's user may write.
pub const RUNTIME_DIRECTORY: &str = "/run/microvm";
/// Holds a directory for each VM with shared directories, for the sockets of virtiofsd.
pub const SHARES_DIRECTORY: &str = "/run/microvm-virtiofsd";
/// Holds a directory for each running VM with an uplink, for the socket of passt.
pub const UPLINK_DIRECTORY: &str = "/run/microvm-uplink";
/// Holds a directory for each running VM with windows; it belongs to the user whose session shows
/// them.
pub const WAYLAND_DIRECTORY: &str = "/run/microvm-spectrum-wayland";

/// The socket of the compositor that shows a VM's windows, while there is one.
pub fn wayland_socket(name: &VmName) -> PathBuf {
    Path::new(WAYLAND_DIRECTORY).join(name.as_str()).join("wayland.sock")
}

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

    /// The program's own directory.
    pub fn own(&self) -> PathBuf {
        self.root.join(".microvm-spectrum")
    }

    /// The file that a process locks to change the state directory.
    pub fn lock(&self) -> PathBuf {
        self.own().join("lock")
    }

    /// The leases.
    pub fn leases(&self) -> PathBuf {
        self.own().join("leases.json")
    }

    /// What `sync` remembers of what it has read.
    pub fn known(&self) -> PathBuf {
        self.own().join("known.json")
    }

    /// The marks of VMs that have leases and have [never run](crate::state::unused).
    pub fn unused(&self) -> PathBuf {
        self.own().join("unused")
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

    /// Where `sync` writes packages that it adds to the Nix store.
    pub fn staging(&self) -> PathBuf {
        self.own().join("staging")
    }

    /// A VM's folder.
    pub fn vm(&self, name: &VmName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// The link to the package of a VM's next start.
    pub fn current(&self, name: &VmName) -> PathBuf {
        self.vm(name).join("current")
    }

    /// The link to the package of a running VM.
    pub fn booted(&self, name: &VmName) -> PathBuf {
        self.vm(name).join("booted")
    }

    /// The text of `current` in a folder that belongs to this program.
    pub fn current_link(name: &VmName) -> PathBuf {
        Path::new("../.microvm-spectrum/current/vms").join(name.as_str())
    }

    /// Whether a VM's folder exists and another program, such as `microvm`, made it.
    ///
    /// # Errors
    /// When the folder cannot be looked at.
    pub fn is_anothers(&self, name: &VmName) -> io::Result<bool> {
        match std::fs::read_link(self.current(name)) {
            Ok(link) => Ok(link != Self::current_link(name)),
            // Something else than a directory, such as a link to nowhere, is not ours.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = self.vm(name);
                Ok(unless_missing(folder.symlink_metadata())?.is_some() && !is_directory(&folder)?)
            }
            Err(error) if is_missing(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
