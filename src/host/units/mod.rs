// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The unit files for the host, which are the same on every distribution.
//!
//! The templated units have microvm.nix's names and meaning. This module fills the
//! paths of this program and of the state directory into the templates, which are
//! beside it.

mod generator;
mod sources;

use std::io;
use std::path::{Component, Path, PathBuf};

pub use generator::{
    GenerateError, TARGET, autostarted, drop_in_of_systemd, generate, generation_of_systemd, is_current,
};
pub use sources::{
    can_be_watched, leads_elsewhere, partitions, path_unit, to_start, watched, watched_paths, with_scans,
};

use serde::Serialize;

use crate::base::template::render;
use crate::system::durable;

/// The file name of the drop-ins that the generator writes.
const DROP_IN: &str = "50-microvm-spectrum.conf";
/// Where systemd keeps the output of its generators.
const GENERATED: &str = "/run/systemd/generator";

/// The paths in unit files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitPaths {
    program: String,
    state_dir: String,
}

/// A path that systemd would not read from a unit file as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be part of a unit file: use an absolute path without .., of letters, digits and . _ + = @ : , -", .0.display())]
pub struct UnitPathError(PathBuf);

impl UnitPaths {
    /// The paths of this program and of the state directory.
    ///
    /// # Errors
    /// When a path has characters that systemd interprets in any line of a unit.
    pub fn new(program: &Path, state_dir: &Path) -> Result<Self, UnitPathError> {
        let plain = |path: &Path| {
            let text = path.to_str().unwrap_or_default();
            let known = |c: char| c.is_ascii_alphanumeric() || "/._+=@:,-".contains(c);
            // With a warning, systemd ignores a line whose path has such a part.
            let up = path.components().any(|part| part == Component::ParentDir);
            (path.is_absolute() && !up && text.chars().all(known))
                .then(|| text.to_owned())
                .ok_or_else(|| UnitPathError(path.to_owned()))
        };
        Ok(Self { program: plain(program)?, state_dir: plain(state_dir)? })
    }
}

macro_rules! files {
    ($($path:literal: $mode:literal = $($template:literal)*),* $(,)?) => {
        [$(($path, $mode, concat!($(include_str!(concat!("templates/", $template, ".hbs"))),*))),*]
    };
}

/// The files beneath a `lib` directory, with mode and template.
const FILES: [(&str, u32, &str); 21] = files! {
    "systemd/system/microvm@.service": 0o644 = "microvm@.service",
    "systemd/system/microvm-virtiofsd@.service": 0o644 = "microvm-virtiofsd@.service",
    "systemd/system/microvm-uplink@.service": 0o644 = "microvm-uplink@.service",
    "systemd/system/microvm-tap-interfaces@.service": 0o644 = "microvm-tap-interfaces@.service",
    "systemd/system/microvm-pci-devices@.service": 0o644 = "microvm-pci-devices@.service",
    "systemd/system/microvm-set-booted@.service": 0o644 = "microvm-set-booted@.service",
    "systemd/system/microvm-spectrum-sync.service": 0o644 = "microvm-spectrum-sync.service" "sandbox-of-sync",
    "systemd/system/microvm-spectrum-mounts.service": 0o644 = "microvm-spectrum-mounts.service",
    "systemd/system/microvm-spectrum-network.service": 0o644 = "microvm-spectrum-network.service",
    "systemd/system/microvm-spectrum-resync.service": 0o644 = "microvm-spectrum-resync.service" "sandbox-of-sync",
    "systemd/system/microvm-spectrum-resync@.service": 0o644 = "microvm-spectrum-resync@.service" "sandbox-of-sync",
    "systemd/system/microvm-spectrum-rescan@.service": 0o644 = "microvm-spectrum-rescan@.service" "sandbox-of-sync",
    "systemd/system/microvm-spectrum-source@.path": 0o644 = "microvm-spectrum-source@.path",
    "systemd/system/microvms.target": 0o644 = "microvms.target",
    "systemd/user/microvm-spectrum-wayland.service": 0o644 = "microvm-spectrum-wayland.service",
    "systemd/system-generators/microvm-spectrum-generator": 0o755 = "generator.sh",
    "systemd/network/10-microvm-spectrum.network": 0o644 = "network.conf",
    "ocf/resource.d/microvm-spectrum/vm": 0o755 = "ocf-agent.sh",
    "udev/rules.d/85-microvm-spectrum.rules": 0o644 = "udev.rules",
    "sysusers.d/microvm-spectrum.conf": 0o644 = "sysusers.conf",
    "tmpfiles.d/microvm-spectrum.conf": 0o644 = "tmpfiles.conf",
};

/// Writes the unit files, the generator, Pacemaker's agent and the fragments for `systemd-sysusers`,
/// `systemd-tmpfiles`, networkd and udev to where they belong beneath `output`, the
/// `lib` directory of a prefix.
///
/// # Errors
/// The file that cannot be written, and the system's error.
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

/// The units of the system in this directory that are not those that [`write()`] writes.
pub fn differing(paths: &UnitPaths, directory: &Path) -> Vec<PathBuf> {
    let of_system = FILES.iter().filter_map(|(path, _, template)| {
        Some((directory.join(path.strip_prefix("systemd/system/")?), render(template, paths)))
    });
    let is_same =
        |(path, text): &(PathBuf, String)| std::fs::read_to_string(path).is_ok_and(|found| found == *text);
    of_system.filter(|file| !is_same(file)).map(|(path, _)| path).collect()
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
