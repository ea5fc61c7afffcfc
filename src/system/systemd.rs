// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Talking to systemd, by its own `systemctl`, and the names of units.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::base::name::VmName;
use crate::base::printable::Untrusted;
use crate::system::program;

/// The units that a VM's unit requires, in the order in which they start.
pub(super) const HELPERS: [&str; 5] = [
    "microvm-set-booted",
    "microvm-tap-interfaces",
    "microvm-pci-devices",
    "microvm-virtiofsd",
    "microvm-uplink",
];
/// What is asked of each unit.
const PROPERTIES: &str = "--property=Id,ActiveState,SubState,StatusText,Result,ConditionResult,\
                          StateChangeTimestamp,MemoryCurrent,CPUUsageNSec,ExecMainStatus,Job";
/// The exit status of a supervisor that had to kill its guest.
pub const KILLED: u8 = 8;
/// The exit status of a process that systemd cannot start as its user (`systemd.exec(5)`).
const NO_USER: u8 = 217;

/// How a supervisor's status text begins while all is well.
pub const RUNNING: &str = "running in ";

/// What systemd knows about a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitStatus {
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, …
    pub active: String,
    /// The state in more detail, such as `running` or `auto-restart`.
    pub sub: String,
    /// The last status text of its main process; untrusted, it may quote the guest.
    pub text: Untrusted,
    /// Whether systemd has work to do with it, such as to start it once its helpers have started.
    pub has_job: bool,
    /// Whether systemd skipped its last start because a condition was not met.
    pub skipped: bool,
    /// Whether its last run failed. Between two tries it is `inactive`, too.
    pub ended_badly: bool,
    /// Whether its last run ended by a kill, because it did not stop in time.
    pub killed: bool,
    /// When it came into its state, in seconds since 1970.
    pub since: Option<u64>,
    /// The memory that its processes use, in bytes.
    pub memory_bytes: Option<u64>,
    /// The processor time that its processes have used, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// The unit without which it does not start and which has failed, if it does not run.
    pub failed: Option<FailedUnit>,
}

/// A unit that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUnit {
    /// Its name.
    pub unit: String,
    /// What it said, or else what systemd says of its end; untrusted.
    pub said: Untrusted,
    /// When it failed, in seconds since 1970.
    pub since: Option<u64>,
}

impl UnitStatus {
    /// Why the unit is in its state: what the [failed unit](Self::failed) said, or its own
    /// last words, unless these are of an earlier run.
    pub fn reason(&self) -> Untrusted {
        match &self.failed {
            Some(FailedUnit { unit, said, .. }) => format!("{unit}: {}", said.raw()).into(),
            None if self.does_not_run() && !self.ended_badly => Untrusted::default(),
            None => self.text.clone(),
        }
    }

    fn does_not_run(&self) -> bool {
        matches!(self.active.as_str(), "" | "inactive")
    }
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

/// Has systemd forget that units have failed; it may know none of them any more.
pub fn reset_failed(units: &[String]) {
    if !units.is_empty() {
        let _ = systemctl(&["reset-failed", "--"]).args(units).stderr(Stdio::null()).status();
    }
}

/// All units of a VM.
pub fn units_of(name: &VmName) -> Vec<String> {
    std::iter::once(unit(name)).chain(helpers(name)).collect()
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
    let units: Vec<_> = names.into_iter().flat_map(units_of).collect();
    if units.is_empty() { Ok(BTreeMap::new()) } else { show(units) }
}

/// The units that a VM's unit requires.
pub(super) fn helpers(name: &VmName) -> impl Iterator<Item = String> {
    HELPERS.into_iter().map(move |helper| format!("{helper}@{name}.service"))
}

/// The status of the units of VMs that systemd has loaded; no other VM runs, or has failed.
///
/// systemd does not load a unit for this, of which a source can have thousands.
///
/// # Errors
/// See [`reload`].
pub fn loaded() -> io::Result<BTreeMap<VmName, UnitStatus>> {
    show(["microvm"].iter().chain(&HELPERS).map(|unit| format!("{unit}@*.service")).collect())
}

fn show(units: Vec<String>) -> io::Result<BTreeMap<VmName, UnitStatus>> {
    let mut show = systemctl(&["show", "--timestamp=unix", PROPERTIES, "--"]);
    let printed = program::output(show.args(units), "")?;
    let printed = String::from_utf8_lossy(&printed);
    let blocks: Vec<_> = printed.split("\n\n").map(parse).collect();
    let mut found: BTreeMap<_, _> =
        blocks.iter().filter_map(|(id, status, _)| Some((vm_of_unit(id)?, status.clone()))).collect();
    // The first that failed is why the later ones did not start.
    for (id, status, result) in blocks.iter().filter(|(_, status, _)| status.active == "failed") {
        let Some(vm) = vm_of_helper(id) else { continue };
        let said = match status.text.raw() {
            "" => format!("failed ({result})").into(),
            _ => status.text.clone(),
        };
        let vm: &mut UnitStatus = found.entry(vm).or_default();
        if vm.does_not_run() && vm.failed.as_ref().is_none_or(|other| rank(id) < rank(&other.unit)) {
            vm.failed = Some(FailedUnit { unit: (*id).to_owned(), said, since: status.since });
        }
    }
    Ok(found)
}

/// A unit's name, its status, and how its last run ended.
fn parse(block: &str) -> (&str, UnitStatus, &str) {
    let (mut id, mut result, mut exit_status, mut status) = ("", "", "", UnitStatus::default());
    // What is not known is `[not set]` or the largest number.
    let number = |value: &str| value.parse().ok().filter(|number| *number != u64::MAX);
    for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "Id" => id = value,
            "ActiveState" => value.clone_into(&mut status.active),
            "SubState" => value.clone_into(&mut status.sub),
            "StatusText" => status.text = value.to_owned().into(),
            "Result" => {
                result = value;
                status.ended_badly = !matches!(value, "" | "success" | "exec-condition");
                status.skipped |= value == "exec-condition";
            }
            "Job" => status.has_job = !matches!(value, "" | "0"),
            "ConditionResult" => status.skipped |= value == "no",
            "ExecMainStatus" => exit_status = value,
            "StateChangeTimestamp" => status.since = value.strip_prefix('@').and_then(number),
            "MemoryCurrent" => status.memory_bytes = number(value),
            "CPUUsageNSec" => status.cpu_ns = number(value),
            _ => {}
        }
    }
    status.killed = match result {
        "exit-code" => exit_status.parse() == Ok(KILLED),
        other => other == "timeout",
    };
    // For others it is a user that systemd would make.
    if vm_of_unit(id).is_some() && result == "exit-code" && exit_status.parse() == Ok(NO_USER) {
        status.text = "its user has no account (is libnss-systemd installed?)".to_owned().into();
        return (id, status, result);
    }
    // The supervisor says how a run ended, unless it was ended itself: then its last text is
    // of the time when all was well.
    if status.ended_badly && (result != "exit-code" || status.text.raw().starts_with(RUNNING)) {
        status.text = format!("failed ({result})").into();
    }
    (id, status, result)
}

/// The file from which systemd reads a unit, if it knows the unit.
pub fn unit_file(unit: &str) -> Option<PathBuf> {
    property(unit, "FragmentPath").map(PathBuf::from)
}

/// A property of a unit (`systemctl show`), if it has a value.
pub fn property(unit: &str, name: &str) -> Option<String> {
    let shown = program::output(&mut systemctl(&["show", "--property", name, "--value", "--", unit]), "");
    let value = String::from_utf8(shown.ok()?).ok()?;
    Some(value.trim_end().to_owned()).filter(|value| !value.is_empty())
}

/// Whether a unit has a process, which can also be one that the kernel does not end.
pub fn has_processes(unit: &str) -> bool {
    let group = property(unit, "ControlGroup");
    let processes = group.map(|group| std::fs::read(format!("/sys/fs/cgroup{group}/cgroup.procs")));
    processes.is_some_and(|found| found.is_ok_and(|text| !text.is_empty()))
}

/// The VM whose unit requires the unit with this name.
fn vm_of_helper(unit: &str) -> Option<VmName> {
    let (helper, name) = unit.split_once('@')?;
    HELPERS.contains(&helper).then(|| VmName::new(name.strip_suffix(".service")?).ok()).flatten()
}

fn rank(unit: &str) -> Option<usize> {
    HELPERS.iter().position(|helper| unit.split('@').next() == Some(helper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_better_times_is_no_reason() {
        for (result, text, reason) in [
            ("signal", "running in cloud-hypervisor (kvm)", "failed (signal)"),
            ("timeout", "waiting for the guest to power off", "failed (timeout)"),
            ("exit-code", "running in qemu (tcg)", "failed (exit-code)"),
            ("exit-code", "the guest's kernel panicked", "the guest's kernel panicked"),
        ] {
            let block =
                format!("Id=microvm@a.service\nActiveState=failed\nStatusText={text}\nResult={result}\n");
            let (_, status, _) = parse(&block);
            assert_eq!(status.reason().raw(), reason);
        }
        let (_, status, _) = parse("ActiveState=active\nStatusText=running in qemu (tcg)\nResult=success\n");
        assert_eq!(status.reason().raw(), "running in qemu (tcg)");
    }
}
