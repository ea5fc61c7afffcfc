// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What systemd watches of the sources, and which partitions it mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{DROP_IN, GENERATED};
use crate::catalog::{Catalog, CatalogSource, CatalogVm, VmState};
use crate::config::PARTITIONS;
use crate::name::SourceName;
use crate::systemd;
use crate::template::render;

/// Where the kernel's partitions are by their PARTUUIDs.
const BY_PARTUUID: &str = "/dev/disk/by-partuuid";
/// How many VM directories with errors are watched in each source.
const MAX_WATCHED: usize = 64;

fn path_unit(source: &SourceName) -> String {
    format!("microvm-spectrum-source@{source}.path")
}

/// Writes, for each source, what systemd is to watch: the directory that holds
/// the VM directories, those with errors, which may not be finished, and the
/// mount points on the way there. And the units by which partitions are mounted
/// that the configuration names by their PARTUUID.
pub(super) fn write(catalog: &Catalog, directory: &Path) -> io::Result<()> {
    let mut mounts: BTreeSet<PathBuf> = BTreeSet::new();
    let mut broken = broken(catalog);
    for source in &catalog.sources {
        let more = broken.remove(&source.name).unwrap_or_default();
        let paths: Vec<_> =
            std::iter::once(source.directory.as_path()).chain(more).filter_map(in_a_unit).collect();
        let unit = path_unit(&source.name);
        let data = json!({ "paths": paths });
        write_drop_in(directory, &unit, &render(include_str!("../templates/units/source.conf.hbs"), &data))?;
        want(directory, "paths.target", &unit, "../microvm-spectrum-source@.path")?;
        let above = source.directory.ancestors().filter(|path| path.parent().is_some());
        mounts.extend(above.map(Path::to_owned));
        if let Some(partuuid) = &source.partuuid {
            let place = place(source);
            let unit = systemd::unit_of_path(&place, "mount");
            let device = Path::new(BY_PARTUUID).join(partuuid.to_string());
            let data = json!({
                "source": source.name,
                "what": device,
                "where": place,
                "device": systemd::unit_of_path(&device, "device"),
            });
            let text = render(include_str!("../templates/units/partition.mount.hbs"), &data);
            std::fs::write(directory.join(&unit), text)?;
            want(directory, &systemd::unit_of_path(&device, "device"), &unit, &format!("../{unit}"))?;
        }
    }
    for mount in mounts {
        let text = include_str!("../templates/units/mount.conf");
        write_drop_in(directory, &systemd::unit_of_path(&mount, "mount"), text)?;
    }
    Ok(())
}

/// The VM directories with errors, by source.
fn broken(catalog: &Catalog) -> BTreeMap<&SourceName, Vec<&Path>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for CatalogVm { source, directory, state, .. } in &catalog.vms {
        if matches!(state, VmState::Broken { .. }) {
            let watched = found.entry(source).or_default();
            if watched.len() < MAX_WATCHED {
                watched.push(Path::new(directory));
            }
        }
    }
    found
}

/// A path as a unit file has it; none where a line cannot carry it.
fn in_a_unit(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let plain = |c: char| !c.is_control() && c != '\\';
    (text.chars().all(plain) && text.trim() == text).then(|| text.replace('%', "%%"))
}

fn write_drop_in(directory: &Path, unit: &str, text: &str) -> io::Result<()> {
    let directory = directory.join(format!("{unit}.d"));
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(DROP_IN), text)
}

fn want(directory: &Path, by: &str, unit: &str, target: &str) -> io::Result<()> {
    let wants = directory.join(format!("{by}.wants"));
    std::fs::create_dir_all(&wants)?;
    match symlink(target, wants.join(unit)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Where a partition is mounted.
fn place(source: &CatalogSource) -> PathBuf {
    Path::new(PARTITIONS).join(source.name.to_string())
}

/// The units that watch sources, as systemd has read it.
pub fn watched() -> BTreeSet<String> {
    let wants = std::fs::read_dir(Path::new(GENERATED).join("paths.target.wants"));
    let names =
        wants.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("microvm-spectrum-source@")).collect()
}

/// The units that mount partitions which are there, and were there before
/// systemd knew of them.
pub fn to_start(catalog: &Catalog) -> Vec<String> {
    let there = |source: &&CatalogSource| {
        let device = source.partuuid.as_ref().map(|uuid| Path::new(BY_PARTUUID).join(uuid.to_string()));
        source.problem.is_some() && device.is_some_and(|device| device.exists())
    };
    catalog.sources.iter().filter(there).map(|s| systemd::unit_of_path(&place(s), "mount")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_line_of_a_unit_can_carry() {
        for (path, line) in [
            ("/srv/P/svc/data", Some("/srv/P/svc/data")),
            ("/srv/100%/ü x", Some("/srv/100%%/ü x")),
            ("/srv/a\nPathExists=/etc", None),
            ("/srv/a\\", None),
            ("/srv/a ", None),
        ] {
            assert_eq!(in_a_unit(Path::new(path)).as_deref(), line, "{path:?}");
        }
    }
}
