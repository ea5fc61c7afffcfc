// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The unit files for the host, which are the same on every distribution.
//!
//! Names and meaning of the templated units are microvm.nix's. Their text is in
//! `src/templates/units`; here are only the paths filled in.

mod sources;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

pub use sources::{can_be_watched, leads_elsewhere, partitions, path_unit, to_start, watched};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde_json::json;

use crate::base::name::VmName;
use crate::base::template::render;
use crate::plan::HypervisorName;
use crate::state::catalog::{Catalog, CatalogVm, Runnable, VmState};
use crate::system::durable;

/// The paths that unit files name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitPaths {
    program: String,
    state_dir: String,
}

/// A path that cannot stand in a unit file as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot stand in a unit file: use an absolute path without .., of letters, digits and . _ + = @ : , -", .0.display())]
pub struct UnitPathError(PathBuf);

impl UnitPaths {
    /// The paths of this program and of the state directory.
    ///
    /// # Errors
    /// When a path has characters that systemd would interpret, whether now or
    /// in another line of the unit.
    pub fn new(program: &Path, state_dir: &Path) -> Result<Self, UnitPathError> {
        let plain = |path: &Path| {
            let text = path.to_str().unwrap_or_default();
            let known = |c: char| c.is_ascii_alphanumeric() || "/._+=@:,-".contains(c);
            // systemd ignores a line whose path has such a part, with a warning.
            let up = path.components().any(|part| part == Component::ParentDir);
            (path.is_absolute() && !up && text.chars().all(known))
                .then(|| text.to_owned())
                .ok_or_else(|| UnitPathError(path.to_owned()))
        };
        Ok(Self { program: plain(program)?, state_dir: plain(state_dir)? })
    }
}

macro_rules! files {
    ($($path:literal: $mode:literal = $template:literal),* $(,)?) => {
        [$(($path, $mode, include_str!(concat!("templates/", $template, ".hbs")))),*]
    };
}

/// The files beneath a `lib` directory, with mode and template.
const FILES: [(&str, u32, &str); 15] = files! {
    "systemd/system/microvm@.service": 0o644 = "microvm@.service",
    "systemd/system/microvm-virtiofsd@.service": 0o644 = "microvm-virtiofsd@.service",
    "systemd/system/microvm-tap-interfaces@.service": 0o644 = "microvm-tap-interfaces@.service",
    "systemd/system/microvm-pci-devices@.service": 0o644 = "microvm-pci-devices@.service",
    "systemd/system/microvm-set-booted@.service": 0o644 = "microvm-set-booted@.service",
    "systemd/system/microvm-spectrum-sync.service": 0o644 = "microvm-spectrum-sync.service",
    "systemd/system/microvm-spectrum-mounts.service": 0o644 = "microvm-spectrum-mounts.service",
    "systemd/system/microvm-spectrum-resync.service": 0o644 = "microvm-spectrum-resync.service",
    "systemd/system/microvm-spectrum-source@.path": 0o644 = "microvm-spectrum-source@.path",
    "systemd/system/microvms.target": 0o644 = "microvms.target",
    "systemd/system-generators/microvm-spectrum-generator": 0o755 = "generator.sh",
    "systemd/network/10-microvm-spectrum.network": 0o644 = "network.conf",
    "udev/rules.d/85-microvm-spectrum.rules": 0o644 = "udev.rules",
    "sysusers.d/microvm-spectrum.conf": 0o644 = "sysusers.conf",
    "tmpfiles.d/microvm-spectrum.conf": 0o644 = "tmpfiles.conf",
};

/// Writes the unit files, the generator and the fragments for `systemd-sysusers`
/// and `systemd-tmpfiles` beneath `output`, in the places that they have in a
/// prefix's `lib`.
///
/// # Errors
/// The system's error and the file that it is about.
pub fn write(paths: &UnitPaths, output: &Path) -> Result<(), (PathBuf, io::Error)> {
    for (path, mode, template) in FILES {
        let path = output.join(path);
        path.parent()
            .map_or(Ok(()), durable::ensure_directory)
            .and_then(|()| durable::replace_file(&path, &render(template, paths), mode))
            .map_err(|error| (path, error))?;
    }
    Ok(())
}

/// The file name of the drop-ins that the generator writes.
const DROP_IN: &str = "50-microvm-spectrum.conf";
/// The target that starts VMs with the host.
pub const TARGET: &str = "microvms.target";
/// The directory of links to what it starts.
const TARGET_WANTS: &str = "microvms.target.wants";

/// Where systemd keeps what its generators have written.
const GENERATED: &str = "/run/systemd/generator";
/// The file there that says of which generation of the catalog that is; its
/// name is no unit's.
const GENERATION: &str = ".microvm-spectrum-generation";

/// The generation of the catalog that systemd has read, if it has read any.
pub fn generation_of_systemd() -> Option<u64> {
    std::fs::read_to_string(Path::new(GENERATED).join(GENERATION)).ok()?.trim_end().parse().ok()
}

/// The VMs that systemd starts with the host, as it has read it.
pub fn autostarted() -> BTreeSet<VmName> {
    let wants = std::fs::read_dir(Path::new(GENERATED).join(TARGET_WANTS));
    let names = wants.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name();
        VmName::new(name.to_str()?.strip_prefix("microvm@")?.strip_suffix(".service")?).ok()
    });
    names.collect()
}

/// Writes the drop-ins of a catalog's VMs into the directory of a generator, and
/// the links by which [`TARGET`] starts those that start with the host; last,
/// of which generation they are.
///
/// Nothing is synced: the directory is in memory and is made anew each time.
///
/// # Errors
/// The system's error.
pub fn write_drop_ins(paths: &UnitPaths, catalog: &Catalog, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let output = durable::open_directory(directory)?;
    let wants = Path::new(TARGET_WANTS);
    let mut has_wants = false;
    for (vm, runnable) in catalog.known() {
        let data = drop_in_data(paths, catalog.generation, vm, runnable);
        let write = |unit: &str, text: &str| {
            let directory = PathBuf::from(format!("{unit}@{}.service.d", vm.name));
            make_directory(&output, &directory)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o666);
            let mut file = File::from(rustix::fs::openat(&output, directory.join(DROP_IN), flags, mode)?);
            file.write_all(text.as_bytes())
        };
        write("microvm", &render(include_str!("templates/drop-in.conf.hbs"), &data))?;
        let user = render(include_str!("templates/drop-in-user.conf.hbs"), &data);
        for unit in ["microvm-virtiofsd", "microvm-tap-interfaces", "microvm-pci-devices"] {
            write(unit, &user)?;
        }
        if runnable.autostart && matches!(vm.state, VmState::Runnable(_)) {
            if !has_wants {
                make_directory(&output, wants)?;
                has_wants = true;
            }
            let link = wants.join(format!("microvm@{}.service", vm.name));
            rustix::fs::symlinkat("../microvm@.service", &output, link)?;
        }
    }
    sources::write(catalog, directory)?;
    std::fs::write(directory.join(GENERATION), format!("{}\n", catalog.generation))
}

/// Makes a directory, which may be there.
fn make_directory(parent: &OwnedFd, path: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, path, Mode::from_raw_mode(0o777)) {
        Err(error) if error != Errno::EXIST => Err(error.into()),
        _ => Ok(()),
    }
}

fn drop_in_data(
    paths: &UnitPaths,
    generation: u64,
    vm: &CatalogVm,
    runnable: &Runnable,
) -> serde_json::Value {
    let providers: Vec<_> = runnable.links.iter().map(|link| &link.provider).collect();
    json!({
        "program": paths.program,
        "state_dir": paths.state_dir,
        "generation": generation,
        "name": vm.name,
        "source": vm.source,
        "uid": runnable.uid,
        "providers": providers,
        "devices": !runnable.devices.is_empty(),
        "inet": runnable.hypervisor == HypervisorName::CloudHypervisor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_unit_would_interpret_are_refused() {
        let new = |program: &str, state: &str| UnitPaths::new(Path::new(program), Path::new(state));
        assert!(new("/nix/store/0x-a+b=1.2/bin/p", "/var/lib/microvms").is_ok());
        for bad in ["", "p", "/a b", "/a%i", "/a$b", "/a\nb", "/a\"b", "/a\\b", "/a;b", "/ü"] {
            assert!(new(bad, "/s").is_err() && new("/p", bad).is_err(), "{bad:?}");
        }
    }
}
