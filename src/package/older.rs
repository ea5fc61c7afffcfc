// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The older convention of microvm.nix: packages without scripts for the host's
//! part, whose files beneath `share/microvm` say what the host has to do.

use std::fs;
use std::path::{Path, PathBuf};

use super::LoadError;
use crate::base::problem::Problems;
use crate::link::id::{InterfaceName, InterfaceNameError};
use crate::system::durable;

/// The flags that a tap can have (`ip-tuntap(8)`).
const TAP_FLAGS: [&str; 4] = ["vnet_hdr", "multi_queue", "pi", "one_queue"];
/// What to do about a package with errors.
const REMEDY: &str = "build the package again, without it";

/// The files of one package.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

/// A shared directory.
#[derive(Debug, Clone)]
pub struct ShareFiles {
    /// The virtio-fs tag.
    pub tag: String,
    /// The directory on the host.
    pub source: PathBuf,
    /// The name of virtiofsd's socket, in the directory where the VM runs.
    pub socket: String,
}

impl Files {
    /// Those of the package in `directory`.
    pub(super) fn of(directory: &Path) -> Self {
        Self(directory.join("share/microvm"))
    }

    /// The VM's tap interfaces.
    ///
    /// # Errors
    /// When the file cannot be read, or has a word that cannot be an interface's name.
    pub fn taps(&self) -> Result<Vec<InterfaceName>, LoadError> {
        let file = self.0.join("tap-interfaces");
        let mut problems = Problems::default();
        let mut taps = Vec::new();
        for name in words(&file)? {
            let told =
                |error: InterfaceNameError| problems.error(&file, format!("has '{name}': {error}"), REMEDY);
            taps.extend(name.parse().map_err(told));
        }
        self.checked(taps, problems)
    }

    /// The flags that these taps have.
    ///
    /// # Errors
    /// When the file cannot be read, or has a flag that no tap can have.
    pub fn tap_flags(&self) -> Result<Vec<String>, LoadError> {
        let file = self.0.join("tap-flags");
        let mut problems = Problems::default();
        let flags = words(&file)?;
        for unknown in flags.iter().filter(|flag| !TAP_FLAGS.contains(&flag.as_str())) {
            problems.error(&file, format!("has the unknown flag '{unknown}'"), REMEDY);
        }
        self.checked(flags, problems)
    }

    /// The VM's shared directories, in the order of their tags.
    ///
    /// # Errors
    /// When a file cannot be read, or a socket has no plain name.
    pub fn shares(&self) -> Result<Vec<ShareFiles>, LoadError> {
        let directory = self.0.join("virtiofs");
        let mut problems = Problems::default();
        let mut shares = Vec::new();
        for entry in fs::read_dir(&directory).map_err(LoadError::at(&directory))? {
            let entry = entry.map_err(LoadError::at(&directory))?;
            let line = |file: &str| {
                let file = entry.path().join(file);
                let text = fs::read_to_string(&file).map_err(LoadError::at(&file))?;
                Ok((text.trim_end_matches('\n').to_owned(), file))
            };
            let ((source, _), (socket, file)) = (line("source")?, line("socket")?);
            if socket.is_empty() || socket.contains('/') || socket.starts_with('.') {
                problems.error(file, format!("has '{socket}', which is not a plain file name"), REMEDY);
            }
            let tag = entry.file_name().to_string_lossy().into_owned();
            shares.push(ShareFiles { tag, source: source.into(), socket });
        }
        shares.sort_by(|a, b| a.tag.cmp(&b.tag));
        self.checked(shares, problems)
    }

    fn checked<T>(&self, found: T, problems: Problems) -> Result<T, LoadError> {
        problems.or(found).map_err(|problems| LoadError::Files { path: self.0.clone(), problems })
    }
}

/// The words of a file, which need not be there.
fn words(file: &Path) -> Result<Vec<String>, LoadError> {
    let text = durable::if_present(fs::read_to_string(file)).map_err(LoadError::at(file))?;
    Ok(text.unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_errors_are_reported_together() {
        let package = tempfile::tempdir().unwrap();
        let files = Files::of(package.path());
        let write = |path: &str, text: &str| {
            let path = files.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let told = |error: LoadError| match error {
            LoadError::Files { problems, .. } => {
                problems.into_sorted().into_iter().map(|p| p.cause).collect()
            }
            other => vec![other.to_string()],
        };
        assert!(files.taps().unwrap().is_empty() && files.tap_flags().unwrap().is_empty());
        write("tap-interfaces", "good -bad ../bad\n");
        assert_eq!(told(files.taps().unwrap_err()).len(), 2);
        write("tap-flags", "vnet_hdr name eth0\n");
        let unknown = ["has the unknown flag 'eth0'", "has the unknown flag 'name'"];
        assert_eq!(told(files.tap_flags().unwrap_err()), unknown);
        assert!(!files.shares().unwrap_err().is_hosts(), "there are none");
        for (tag, socket) in [("b", "b.sock"), ("a", "a.sock")] {
            write(&format!("virtiofs/{tag}/source"), "/srv\n");
            write(&format!("virtiofs/{tag}/socket"), &format!("{socket}\n"));
        }
        let shares: Vec<_> = files.shares().unwrap().into_iter().map(|it| (it.tag, it.socket)).collect();
        assert_eq!(shares, [("a", "a.sock"), ("b", "b.sock")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        write("virtiofs/a/socket", "../a.sock\n");
        write("virtiofs/b/socket", "\n");
        assert_eq!(told(files.shares().unwrap_err()).len(), 2);
    }
}
