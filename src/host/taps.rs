// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Tap interfaces, for one user each.
//!
//! The links of this program's own packages are another module's (`links`).
//! Another package may bring its own `bin/tap-up` and `bin/tap-down`; those of the
//! older convention only name their taps in `share/microvm/tap-interfaces`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::links::{links_down, links_up};
use super::{HostError, USER_VARIABLE, become_script, io_error, trust, trusted_package, vm_user};
use crate::base::name::VmName;
use crate::base::tool::{self, Tool};
use crate::package::{self, MANIFEST};
use crate::plan::Plan;
use crate::state::catalog::Catalog;
use crate::state::directory::StateDirectory;

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
    if package.join(MANIFEST).exists() {
        let plan = load(&package)?;
        let catalog = Catalog::read(&state.catalog()).ok();
        let user = vm_user()?;
        let provider_user = |provider: &VmName| {
            let found = catalog.iter().flat_map(Catalog::runnable).find(|(vm, _)| vm.name == *provider);
            found.map_or(user, |(_, runnable)| runnable.uid)
        };
        return links_up(&plan, user, &provider_user);
    }
    let script = package.join("bin/tap-up");
    if script.exists() {
        return Err(become_script(&trust::resolve(&script)?, &[]));
    }
    let ip = ip();
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
    if package.join(MANIFEST).exists() {
        return links_down(&load(&package)?);
    }
    let script = package.join("bin/tap-down");
    if script.exists() {
        return Err(become_script(&trust::resolve(&script)?, &[]));
    }
    let ip = ip();
    for tap in taps(&package)?.iter().filter(|tap| is_tap(tap)) {
        call(&ip, &["link", "delete", "dev", tap])?;
    }
    Ok(())
}

fn load(package: &Path) -> Result<Plan, HostError> {
    package::load(package).map_err(|error| HostError::Package(error.to_string()))
}

/// `ip` of the host's PATH.
fn ip() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    tool::find_all(&Default::default(), &path).remove(&Tool::Ip).unwrap_or_else(|| Tool::Ip.as_str().into())
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
