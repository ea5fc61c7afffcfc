// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where a session's Wayland compositor listens.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The compositor's name in a session that gives none (`wl_display_connect` of libwayland).
const DEFAULT_DISPLAY: &str = "wayland-0";

/// The socket of a session's compositor, from the values of `WAYLAND_DISPLAY` and
/// `XDG_RUNTIME_DIR` (`wl_display_connect` of libwayland): an absolute path, which
/// may lead to nothing. `None` where there is no session.
pub fn socket(display: Option<&OsStr>, runtime: Option<&OsStr>) -> Option<PathBuf> {
    let display = Path::new(display.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_DISPLAY.as_ref()));
    if display.is_absolute() {
        return Some(display.to_owned());
    }
    runtime.map(Path::new).filter(|runtime| runtime.is_absolute()).map(|runtime| runtime.join(display))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_socket_as_every_client_of_the_session_does() {
        let at = |display: Option<&str>, runtime: Option<&str>| {
            socket(display.map(OsStr::new), runtime.map(OsStr::new))
                .map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(at(Some("wayland-1"), Some("/run/user/1")).as_deref(), Some("/run/user/1/wayland-1"));
        assert_eq!(at(None, Some("/run/user/1")).as_deref(), Some("/run/user/1/wayland-0"));
        assert_eq!(at(Some(""), Some("/run/user/1")).as_deref(), Some("/run/user/1/wayland-0"));
        assert_eq!(at(Some("/a/socket"), None).as_deref(), Some("/a/socket"));
        assert_eq!(at(Some("wayland-1"), None), None);
        assert_eq!(at(Some("wayland-1"), Some("run")), None);
        assert_eq!(at(None, None), None);
    }
}
