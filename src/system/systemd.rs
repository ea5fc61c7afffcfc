// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Talking to systemd, by its own `systemctl`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::base::name::VmName;

/// What systemd knows of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitStatus {
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, …
    pub active: String,
    /// The state in more detail, `running` or `auto-restart`.
    pub sub: String,
    /// What the supervisor last told of itself.
    pub text: String,
    /// Whether its last start was skipped, since a condition was not met.
    pub skipped: bool,
}

/// The units that a VM's unit requires.
const HELPERS: [&str; 4] =
    ["microvm-set-booted", "microvm-tap-interfaces", "microvm-pci-devices", "microvm-virtiofsd"];

/// The name of the unit that runs a VM.
pub fn unit(name: &VmName) -> String {
    format!("microvm@{name}.service")
}

/// Whether systemd is this system's PID 1 (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn systemctl(arguments: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn succeeded(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned();
    Err(io::Error::other(format!("systemctl ended with {}: {said}", output.status)))
}

/// Has systemd read all unit files again, and run its generators.
///
/// # Errors
/// What systemctl says.
pub fn reload() -> io::Result<()> {
    succeeded(&systemctl(&["daemon-reload"]).output()?)
}

/// Has systemd start units, without waiting.
///
/// # Errors
/// What systemctl says.
pub fn start_soon(units: &[String]) -> io::Result<()> {
    succeeded(&systemctl(&["start", "--no-block", "--"]).args(units).output()?)
}

/// Has systemd stop units, without waiting.
///
/// # Errors
/// What systemctl says.
pub fn stop_soon(units: &[String]) -> io::Result<()> {
    succeeded(&systemctl(&["stop", "--no-block", "--"]).args(units).output()?)
}

/// Has systemd restart those of these units that run, without waiting.
///
/// # Errors
/// What systemctl says.
pub fn restart_soon(units: &[String]) -> io::Result<()> {
    succeeded(&systemctl(&["try-restart", "--no-block", "--"]).args(units).output()?)
}

/// The name of the unit that stands for a path, of this type.
///
/// Source: `systemd.unit(5)`, "String escaping for inclusion in unit names".
pub fn unit_of_path(path: &Path, suffix: &str) -> String {
    format!("{}.{suffix}", escape_path(path))
}

/// A path as the name of one thing, which no other path has.
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
            // Writing to a string does not fail.
            _ => drop(write!(name, "\\x{byte:02x}")),
        }
    }
    if name.is_empty() {
        name.push('-');
    }
    name
}

/// Has systemd do `verb` (`start`, `stop`, `restart`) to VMs, and waits for it.
///
/// systemctl talks to the user, and asks for a password where it takes one.
///
/// # Errors
/// When systemctl cannot be started. Returns whether it succeeded.
pub fn control(verb: &str, names: &[VmName]) -> io::Result<bool> {
    let mut units: Vec<_> = names.iter().map(unit).collect();
    let helpers = names.iter().flat_map(|name| HELPERS.map(|unit| format!("{unit}@{name}.service")));
    if verb == "stop" {
        // They stop by themselves; this waits for them.
        units.extend(helpers.clone());
    }
    if matches!(verb, "start" | "restart") {
        // Somebody wants it now, however often it has failed before.
        let all: Vec<_> = units.iter().cloned().chain(helpers).collect();
        let _ = systemctl(&["reset-failed", "--"]).args(all).stderr(Stdio::null()).status();
    }
    let mut command = systemctl(&[verb, "--"]);
    command.args(units).stdin(Stdio::inherit());
    Ok(command.status()?.success())
}

/// The status of units, by name.
///
/// # Errors
/// What systemctl says.
pub fn status(units: &[String]) -> io::Result<BTreeMap<String, UnitStatus>> {
    let mut found = BTreeMap::new();
    if units.is_empty() {
        return Ok(found);
    }
    let output =
        systemctl(&["show", "--property=Id,ActiveState,SubState,StatusText,Result,ConditionResult", "--"])
            .args(units)
            .output()?;
    succeeded(&output)?;
    for block in String::from_utf8_lossy(&output.stdout).split("\n\n") {
        let mut id = String::new();
        let mut status = UnitStatus::default();
        for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => value.clone_into(&mut id),
                "ActiveState" => value.clone_into(&mut status.active),
                "SubState" => value.clone_into(&mut status.sub),
                "StatusText" => value.clone_into(&mut status.text),
                "Result" => status.skipped |= value == "exec-condition",
                "ConditionResult" => status.skipped |= value == "no",
                _ => {}
            }
        }
        found.insert(id, status);
    }
    Ok(found)
}
