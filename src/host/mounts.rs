// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Sources that appear and disappear when something is mounted or unmounted.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{HostError, io_error};
use crate::base::name::SourceName;
use crate::host::units::{can_be_watched, leads_elsewhere, path_unit};
use crate::state::catalog::{Catalog, CatalogSource};
use crate::state::directory::StateDirectory;
use crate::system::{systemd, trust};

/// What is mounted, as this process sees it. It can be polled for changes (`proc(5)`,
/// `/proc/pid/mounts`).
const MOUNTS: &str = "/proc/self/mountinfo";
/// Installs the VMs of all sources.
const RESYNC: &str = "microvm-spectrum-resync.service";

/// One source.
struct Seen {
    name: SourceName,
    directory: PathBuf,
    /// The directory's device and inode, if it exists.
    found: Option<(u64, u64)>,
    /// Whether the last sync could read it.
    readable: bool,
}

/// Starts the unit that scans all sources again whenever one of them has become
/// another directory. Returns only with an error.
///
/// # Errors
/// See [`HostError`].
pub fn watch_mounts(state: &StateDirectory) -> Result<(), HostError> {
    let mounts = File::open(MOUNTS).map_err(io_error(format!("{MOUNTS} cannot be read")))?;
    let mut before: Option<Vec<Seen>> = None;
    let mut sources = Sources::default();
    loop {
        let seen = sources.look(state);
        // The last sync may not have seen what was mounted before this began to watch.
        let changed = match &before {
            Some(before) => places(before) != places(&seen),
            None => seen.iter().any(|source| source.found.is_some() != source.readable),
        };
        if changed {
            // The unit that watches a source cannot start before the source is mounted.
            let here = seen.iter().filter(|it| it.found.is_some() && can_be_watched(&it.directory));
            let watching = here.map(|source| path_unit(&source.name));
            let units: Vec<_> = std::iter::once(RESYNC.to_owned()).chain(watching).collect();
            systemd::start_soon(&units).map_err(io_error(format!("{RESYNC} cannot be started")))?;
        }
        before = Some(seen);
        wait(&mounts).map_err(io_error(format!("{MOUNTS} cannot be watched")))?;
    }
}

fn places(seen: &[Seen]) -> Vec<(&PathBuf, Option<(u64, u64)>)> {
    seen.iter().map(|source| (&source.directory, source.found)).collect()
}

/// The sources of the current generation. The catalog is read once for each generation,
/// because many mounts concern no source.
#[derive(Default)]
struct Sources {
    generation: Option<PathBuf>,
    all: Vec<CatalogSource>,
}

impl Sources {
    /// Their state now.
    fn look(&mut self, state: &StateDirectory) -> Vec<Seen> {
        let generation = std::fs::read_link(state.current_generation()).ok();
        if generation.is_none() || generation != self.generation {
            let catalog = trust::resolve(&state.catalog()).ok().and_then(|path| Catalog::read(&path).ok());
            self.all = catalog.map(|catalog| catalog.sources).unwrap_or_default();
            self.generation = generation;
        }
        self.all.iter().map(Seen::now).collect()
    }
}

impl Seen {
    fn now(source: &CatalogSource) -> Self {
        let found = (!leads_elsewhere(source)).then(|| source.directory.metadata().ok()).flatten();
        let found = found.filter(std::fs::Metadata::is_dir);
        Self {
            name: source.name.clone(),
            directory: source.directory.clone(),
            found: found.map(|it| (it.dev(), it.ino())),
            readable: source.problem.is_none(),
        }
    }
}

/// Waits until something is mounted or unmounted.
fn wait(mounts: &File) -> io::Result<()> {
    let mut watched = [PollFd::new(mounts, PollFlags::PRI)];
    loop {
        match poll(&mut watched, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
