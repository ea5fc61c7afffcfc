// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where a VM's runner package is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::directory::StateDirectory;

/// The place of a runner package. As text it is the name, or the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PackagePlace {
    /// In the state directory, under this name.
    Here(String),
    /// At this absolute path: in the Nix store, or where `build` or Nix has put it.
    At(String),
}

/// A text is neither a file name nor an absolute path.
#[derive(Debug, thiserror::Error)]
#[error("the place of a package is its name or an absolute path, not '{0}'")]
pub struct PlaceError(String);

impl TryFrom<String> for PackagePlace {
    type Error = PlaceError;

    fn try_from(text: String) -> Result<Self, PlaceError> {
        if text.starts_with('/') {
            Ok(Self::At(text))
        } else if Path::new(&text).file_name().is_some_and(|name| name == text.as_str()) {
            Ok(Self::Here(text))
        } else {
            Err(PlaceError(text))
        }
    }
}

impl From<PackagePlace> for String {
    fn from(place: PackagePlace) -> Self {
        match place {
            PackagePlace::Here(text) | PackagePlace::At(text) => text,
        }
    }
}

impl PackagePlace {
    /// The package's directory.
    pub fn path(&self, state: &StateDirectory) -> PathBuf {
        match self {
            Self::Here(name) => state.packages().join(name),
            Self::At(path) => PathBuf::from(path),
        }
    }

    /// The text of the link that leads there from a generation of the catalog.
    pub fn link(&self) -> PathBuf {
        match self {
            Self::Here(name) => Path::new("../../../packages").join(name),
            Self::At(path) => PathBuf::from(path),
        }
    }

    /// The package's name in the state directory, if it is there.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Here(name) => Some(name),
            Self::At(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_or_an_absolute_path() {
        let place = |text: &str| PackagePlace::try_from(text.to_owned());
        let state = StateDirectory::at(Path::new("/s"));
        for (text, path) in
            [("x-microvm-a", "/s/.microvm-spectrum/packages/x-microvm-a"), ("/nix/x", "/nix/x")]
        {
            let place = place(text).unwrap();
            assert_eq!(place.path(&state), Path::new(path));
            assert_eq!(String::from(place), text);
        }
        for bad in ["", ".", "..", "a/b", "../a", "a/"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
