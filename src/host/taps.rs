// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Tap interfaces, for one user each.
//!
//! A package may bring its own `bin/tap-up` and `bin/tap-down`; those of the
//! older convention only name their taps in `share/microvm/tap-interfaces`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{HostError, USER_VARIABLE, become_script, io_error, trust, trusted_package};
use crate::name::VmName;
use crate::package;
use crate::state_directory::StateDirectory;
use crate::tool::{self, Tool};

/// The longest name of an interface (`IFNAMSIZ` in Linux' `if.h`, less one).
const MAX_INTERFACE_BYTES: usize = 15;
/// The flags that a tap can have (`ip-tuntap(8)`).
const FLAGS: [&str; 4] = ["vnet_hdr", "multi_queue", "pi", "one_queue"];

/// Makes a VM's taps; those that are there already are made anew.
///
/// # Errors
/// See [`HostError`].
pub fn tap_up(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    let script = package.join("bin/tap-up");
    if script.exists() {
        return Err(become_script(&trust::resolve(&script)?, &[]));
    }
    let ip = ip(&package);
    let user = std::env::var(USER_VARIABLE).unwrap_or_else(|_| "root".to_owned());
    let flags = words(&package.join("share/microvm/tap-flags"))?;
    if let Some(unknown) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
        return Err(HostError::Package(format!("tap-flags has the unknown flag {unknown}")));
    }
    for tap in taps(&package)? {
        if is_tap(&tap) {
            call(&ip, &["link", "delete", "dev", &tap])?;
        }
        let mut add = vec!["tuntap", "add", "dev", &tap, "mode", "tap", "user", &user];
        add.extend(flags.iter().map(String::as_str));
        call(&ip, &add)?;
        call(&ip, &["link", "set", "dev", &tap, "up"])?;
    }
    Ok(())
}

/// Removes a VM's taps, those that are there.
///
/// # Errors
/// See [`HostError`].
pub fn tap_down(state: &StateDirectory, name: &VmName) -> Result<(), HostError> {
    let package = trusted_package(state, name)?;
    let script = package.join("bin/tap-down");
    if script.exists() {
        return Err(become_script(&trust::resolve(&script)?, &[]));
    }
    let ip = ip(&package);
    for tap in taps(&package)?.iter().filter(|tap| is_tap(tap)) {
        call(&ip, &["link", "delete", "dev", tap])?;
    }
    Ok(())
}

/// The package's own `ip`, or else the one in PATH.
fn ip(package: &Path) -> PathBuf {
    let given = package::load(package).ok().and_then(|plan| plan.tool(Tool::Ip).map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || tool::find_all(&Default::default(), &path).remove(&Tool::Ip);
    given.or_else(found).unwrap_or_else(|| Tool::Ip.as_str().into())
}

fn words(file: &Path) -> Result<Vec<String>, HostError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(format!("{} cannot be read", file.display()))(error)),
    }
}

/// The names of a package's taps, such as interfaces can have.
fn taps(package: &Path) -> Result<Vec<String>, HostError> {
    let taps = words(&package.join("share/microvm/tap-interfaces"))?;
    let usable = |name: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        name.len() <= MAX_INTERFACE_BYTES && name.bytes().all(known) && !name.starts_with(['-', '.'])
    };
    match taps.iter().find(|name| !usable(name)) {
        Some(bad) => Err(HostError::Package(format!("tap-interfaces has the impossible name {bad}"))),
        None => Ok(taps),
    }
}

/// Whether there is such an interface and it is a tap, not somebody's network card.
fn is_tap(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("tun_flags").exists()
}

fn call(ip: &Path, arguments: &[&str]) -> Result<(), HostError> {
    let shown = format!("{} {}", ip.display(), arguments.join(" "));
    let output = Command::new(ip)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(io_error(format!("{shown} cannot be started")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(HostError::Package(format!("{shown} ended with {}: {said}", output.status)))
}
