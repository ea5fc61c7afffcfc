// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The units by which systemd watches sources and mounts partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use serde_json::json;

use super::{DROP_IN, GENERATED};
use crate::base::name::SourceName;
use crate::base::template::render;
use crate::config::{PARTITIONS, SourceKind};
use crate::directory::definition::DATA_DIRECTORY;
use crate::state::catalog::{Catalog, CatalogSource, CatalogVm, VmState};
use crate::system::systemd;

/// Where the kernel's partitions are by their PARTUUIDs.
const BY_PARTUUID: &str = "/dev/disk/by-partuuid";
/// The target that systemd reaches at each boot.
const HOST: &str = "multi-user.target";
/// The unit that waits for sources to be mounted.
const MOUNTS: &str = "microvm-spectrum-mounts.service";
/// How many VM directories with errors systemd watches for each source.
const MAX_WATCHED: usize = 64;

/// The unit that watches a source.
pub fn path_unit(source: &SourceName) -> String {
    format!("microvm-spectrum-source@{source}.path")
}

/// Writes what systemd watches for each source: the directory that holds its VM
/// directories, and those with errors, which may not be complete yet. Also writes the
/// units that mount the partitions which the configuration names by their PARTUUID.
pub(super) fn write(catalog: &Catalog, directory: &Path) -> io::Result<()> {
    let mut broken = broken(catalog);
    for source in &catalog.sources {
        let watched = watched_directory(source);
        let mut more = broken.remove(&source.name).unwrap_or_default();
        // The owner of a partition decides where a link leads.
        let is_partition = source.kind == SourceKind::UserPartition;
        more.retain(|path| watched == source.directory && !(is_partition && path.is_symlink()));
        let paths: Vec<_> = std::iter::once(watched).chain(more).filter_map(in_a_unit).collect();
        want(directory, HOST, MOUNTS, &format!("../{MOUNTS}"))?;
        let unit = path_unit(&source.name);
        // systemd refuses a path unit without paths, and reports that as a failure.
        let is_watched = can_be_watched(&source.directory);
        if is_watched {
            let data = json!({ "paths": paths });
            let text = render(include_str!("templates/source.conf.hbs"), &data);
            write_drop_in(directory, &unit, &text)?;
        }
        let Some(partuuid) = &source.partuuid else {
            // Not by a target, which would wait for the source, and that for a device.
            if is_watched {
                want(directory, MOUNTS, &unit, "../microvm-spectrum-source@.path")?;
            }
            continue;
        };
        let place = place(source);
        let mount = systemd::unit_of_path(&place, "mount");
        let device = Path::new(BY_PARTUUID).join(partuuid.to_string());
        let data = json!({
            "source": source.name,
            "what": device,
            "where": place,
            "device": systemd::unit_of_path(&device, "device"),
        });
        let text = render(include_str!("templates/partition.mount.hbs"), &data);
        std::fs::write(directory.join(&mount), text)?;
        want(directory, &mount, &unit, "../microvm-spectrum-source@.path")?;
        want(directory, &systemd::unit_of_path(&device, "device"), &mount, &format!("../{mount}"))?;
    }
    Ok(())
}

/// Whether a partition's directory of VM directories is a link, by which the owner of
/// the partition could choose what systemd watches.
pub fn leads_elsewhere(source: &CatalogSource) -> bool {
    source.kind == SourceKind::UserPartition && of_the_owner(&source.directory).any(Path::is_symlink)
}

/// The directory by whose changes systemd has a source scanned again: the one that holds
/// its VM directories. Where the owner of a partition has put something else in the place
/// of that, it is the one where that can change: systemd would follow a link, and give up
/// watching what is beneath a file.
fn watched_directory(source: &CatalogSource) -> &Path {
    if source.kind != SourceKind::UserPartition {
        return &source.directory;
    }
    let is_other = |path: &&Path| path.symlink_metadata().is_ok_and(|found| !found.is_dir());
    let below = of_the_owner(&source.directory).filter(is_other).last();
    below.and_then(Path::parent).unwrap_or(&source.directory)
}

/// The directories of a partition that its owner can replace, from the innermost.
fn of_the_owner(directory: &Path) -> impl Iterator<Item = &Path> {
    directory.ancestors().take(Path::new(DATA_DIRECTORY).components().count())
}

/// The VM directories with errors, by source.
fn broken(catalog: &Catalog) -> BTreeMap<&SourceName, Vec<&Path>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for CatalogVm { source, directory, state, .. } in &catalog.vms {
        if matches!(state, VmState::Broken { .. }) {
            let watched = found.entry(source).or_default();
            if watched.len() < MAX_WATCHED {
                watched.push(Path::new(directory.as_str()));
            }
        }
    }
    found
}

/// Whether a unit can watch a source in this directory.
pub fn can_be_watched(directory: &Path) -> bool {
    in_a_unit(directory).is_some()
}

/// A path as a line of a unit file; none if a line cannot carry it, or systemd would
/// ignore it.
fn in_a_unit(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let plain = |c: char| !c.is_control() && c != '\\';
    let up = path.components().any(|part| part == Component::ParentDir);
    (text.chars().all(plain) && text.trim() == text && !up).then(|| text.replace('%', "%%"))
}

/// What systemd watches for a source, by the catalog that it has read.
pub fn watched_paths(source: &SourceName) -> Vec<PathBuf> {
    let drop_in = Path::new(GENERATED).join(format!("{}.d", path_unit(source))).join(DROP_IN);
    let text = std::fs::read_to_string(drop_in).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.strip_prefix("PathChanged="));
    paths.map(|path| path.replace("%%", "%").into()).collect()
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

/// The mount point of a partition.
fn place(source: &CatalogSource) -> PathBuf {
    Path::new(PARTITIONS).join(source.name.to_string())
}

/// The units that watch sources, by the catalog that systemd has read.
pub fn watched() -> BTreeSet<String> {
    let names = [HOST, MOUNTS].into_iter().flat_map(|by| {
        std::fs::read_dir(Path::new(GENERATED).join(format!("{by}.wants"))).into_iter().flatten().flatten()
    });
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("microvm-spectrum-source@") || name == MOUNTS).collect()
}

/// The unit that watches a source, and those that it starts.
pub fn with_scans(path_unit: &str) -> impl Iterator<Item = String> {
    let source =
        path_unit.strip_prefix("microvm-spectrum-source@").and_then(|rest| rest.strip_suffix(".path"));
    let scans = |source| ["resync", "rescan"].map(|scan| format!("microvm-spectrum-{scan}@{source}.service"));
    std::iter::once(path_unit.to_owned()).chain(source.into_iter().flat_map(scans))
}

/// The device units of partitions, each with the unit that mounts it, by the catalog
/// that systemd has read.
pub fn partitions() -> BTreeSet<(String, String)> {
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let generated = Path::new(GENERATED);
    let mut found = BTreeSet::new();
    for wants in names(generated) {
        let Some(device) = wants.strip_suffix(".wants").filter(|name| name.ends_with(".device")) else {
            continue;
        };
        found.extend(names(&generated.join(&wants)).into_iter().map(|mount| (device.to_owned(), mount)));
    }
    found
}

/// The units that mount partitions which exist, but for those in `known`, which the
/// administrator may have unmounted. systemd does not start them by itself when the
/// partition appeared before it read the catalog.
pub fn to_start(catalog: &Catalog, known: &BTreeSet<(String, String)>) -> Vec<String> {
    let unit = |source: &CatalogSource| {
        let device = Path::new(BY_PARTUUID).join(source.partuuid.as_ref()?.to_string());
        let mount = systemd::unit_of_path(&place(source), "mount");
        let units = (systemd::unit_of_path(&device, "device"), mount);
        (source.problem.is_some() && device.exists() && !known.contains(&units)).then_some(units.1)
    };
    catalog.sources.iter().filter_map(unit).collect()
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
            ("/srv/../P", None),
        ] {
            assert_eq!(in_a_unit(Path::new(path)).as_deref(), line, "{path:?}");
        }
    }
}
