// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Changes of a source that systemd does not see: it does not watch a source while the unit
//! that scans it runs.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{HostError, io_error};
use crate::base::name::SourceName;
use crate::base::versioned;
use crate::host::units::{path_unit, watched_paths};
use crate::system::{durable, systemd};

/// Where a scan leaves what it began with, one file for each source.
const DIRECTORY: &str = "/run/microvm-spectrum/scanned";
/// The version of such a file.
const VERSION: u32 = 1;
/// How often systemd is asked whether it watches the source again, and the pause between.
const TRIES: (usize, Duration) = (100, Duration::from_millis(50));

/// What systemd watches for a source, at one moment: for each path the device and inode and
/// when it changed last, in seconds and nanoseconds since 1970, or none where nothing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scanned {
    version: u32,
    paths: BTreeMap<PathBuf, Option<(u64, u64, i64, i64)>>,
}

impl Scanned {
    fn now(source: &SourceName) -> Self {
        let stamp = |path: &Path| {
            let found = path.metadata().ok()?;
            Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
        };
        let paths = watched_paths(source).into_iter().map(|path| (path.clone(), stamp(&path)));
        Self { version: VERSION, paths: paths.collect() }
    }

    /// Whether a path is not as it was `before`, or was not watched then.
    fn has_news_since(&self, before: Option<&Self>) -> bool {
        self.paths.iter().any(|(path, now)| before.and_then(|before| before.paths.get(path)) != Some(now))
    }
}

fn file(source: &SourceName) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{source}.json"))
}

/// Notes what a scan begins with.
///
/// # Errors
/// When the file for that cannot be written.
pub(super) fn begin(source: &SourceName) -> io::Result<()> {
    durable::ensure_directory(Path::new(DIRECTORY))?;
    let text = versioned::text_of(&Scanned::now(source))?;
    durable::replace_file_in_memory(&file(source), &text, 0o644)
}

/// Has a source scanned again if it has changed since its last scan began. Every scan waits
/// at its [pace](super::pace()).
///
/// # Errors
/// When systemd cannot be asked.
pub fn rescan(source: &SourceName) -> Result<(), HostError> {
    let unit = path_unit(source);
    let mut left = TRIES.0;
    // It watches from here on, or what follows would be too early.
    while systemd::property(&unit, "SubState").as_deref() != Some("waiting") {
        left -= 1;
        if left == 0 {
            // The next scan runs already, or nothing is to be watched.
            return Ok(());
        }
        thread::sleep(TRIES.1);
    }
    let text = std::fs::read_to_string(file(source)).ok();
    let before = text.and_then(|text| versioned::parse(&text, "what was scanned", VERSION).ok());
    if Scanned::now(source).has_news_since(before.as_ref()) {
        let scan = format!("microvm-spectrum-resync@{source}.service");
        systemd::start_soon(&[scan]).map_err(io_error("a scan cannot be started"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_or_was_not_watched_is_news() {
        let scanned = |paths: &[(&str, Option<i64>)]| Scanned {
            version: VERSION,
            paths: paths.iter().map(|(path, time)| (path.into(), time.map(|time| (1, 2, time, 0)))).collect(),
        };
        let before = scanned(&[("/s", Some(1)), ("/s/broken", Some(1)), ("/gone", None)]);
        let is_news = |now: &[(&str, Option<i64>)]| scanned(now).has_news_since(Some(&before));
        assert!(!is_news(&[("/s", Some(1)), ("/s/broken", Some(1)), ("/gone", None)]));
        assert!(!is_news(&[("/s", Some(1))]), "a VM without errors is not watched any more");
        assert!(is_news(&[("/s", Some(2))]));
        assert!(is_news(&[("/s", None)]));
        assert!(is_news(&[("/gone", Some(1))]));
        assert!(is_news(&[("/s", Some(1)), ("/s/broken too", Some(1))]));
        assert!(before.has_news_since(None));
    }
}
