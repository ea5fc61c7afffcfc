// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Talking to systemd, by its own `systemctl`, and the names of units.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::base::name::VmName;
use crate::base::printable::Untrusted;
use crate::system::program;

/// What systemd knows about a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitStatus {
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, …
    pub active: String,
    /// The state in more detail, such as `running` or `auto-restart`.
    pub sub: String,
    /// The last status text of its main process; untrusted, it may quote the guest.
    pub text: Untrusted,
    /// Whether systemd skipped its last start because a condition was not met.
    pub skipped: bool,
}

/// The name of the unit that runs a VM.
pub fn unit(name: &VmName) -> String {
    format!("microvm@{name}.service")
}

/// The VM that the unit with this name runs, if it runs one.
pub fn vm_of_unit(unit: &str) -> Option<VmName> {
    VmName::new(unit.strip_prefix("microvm@")?.strip_suffix(".service")?).ok()
}

/// Whether systemd is this system's PID 1 (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

pub(super) fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Has systemd read all unit files again and run its generators.
///
/// # Errors
/// When `systemctl` cannot be started or fails.
pub fn reload() -> io::Result<()> {
    Ok(program::run(&mut systemctl(&["daemon-reload"]))?)
}

/// Has systemd start units, without waiting.
///
/// # Errors
/// See [`reload`].
pub fn start_soon(units: &[String]) -> io::Result<()> {
    Ok(program::run(systemctl(&["start", "--no-block", "--"]).args(units))?)
}

/// Has systemd stop units, without waiting.
///
/// # Errors
/// See [`reload`].
pub fn stop_soon(units: &[String]) -> io::Result<()> {
    Ok(program::run(systemctl(&["stop", "--no-block", "--"]).args(units))?)
}

/// Has systemd restart those of these units that run, without waiting.
///
/// # Errors
/// See [`reload`].
pub fn restart_soon(units: &[String]) -> io::Result<()> {
    Ok(program::run(systemctl(&["try-restart", "--no-block", "--"]).args(units))?)
}

/// The name of the unit of type `suffix` for a path.
///
/// Source: `systemd.unit(5)`, "String escaping for inclusion in unit names".
pub fn unit_of_path(path: &Path, suffix: &str) -> String {
    format!("{}.{suffix}", escape_path(path))
}

/// A path as a name, different for every path.
pub fn escape_path(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect();
    let mut name = String::new();
    for byte in parts.join(&b'/') {
        match byte {
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(name, "\\x{byte:02x}")),
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    name
}

/// The status of the units of VMs; those that systemd says nothing about are left out.
///
/// # Errors
/// See [`reload`].
pub fn status<'a>(names: impl IntoIterator<Item = &'a VmName>) -> io::Result<BTreeMap<VmName, UnitStatus>> {
    let units: Vec<_> = names.into_iter().map(unit).collect();
    if units.is_empty() { Ok(BTreeMap::new()) } else { show(&units) }
}

/// The status of the units of VMs that systemd has loaded; no other VM runs, or has failed.
///
/// systemd does not load a unit for this, of which a source can have thousands.
///
/// # Errors
/// See [`reload`].
pub fn loaded() -> io::Result<BTreeMap<VmName, UnitStatus>> {
    show(&["microvm@*.service".to_owned()])
}

fn show(units: &[String]) -> io::Result<BTreeMap<VmName, UnitStatus>> {
    let mut found = BTreeMap::new();
    let mut show =
        systemctl(&["show", "--property=Id,ActiveState,SubState,StatusText,Result,ConditionResult", "--"]);
    let printed = program::output(show.args(units), "")?;
    for block in String::from_utf8_lossy(&printed).split("\n\n") {
        let mut name = None;
        let mut status = UnitStatus::default();
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => name = vm_of_unit(value),
                "ActiveState" => value.clone_into(&mut status.active),
                "SubState" => value.clone_into(&mut status.sub),
                "StatusText" => status.text = value.to_owned().into(),
                "Result" => status.skipped |= value == "exec-condition",
                "ConditionResult" => status.skipped |= value == "no",
                _ => {}
            }
        }
        found.extend(name.map(|name| (name, status)));
    }
    Ok(found)
}
