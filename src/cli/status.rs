// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum status`

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;

use super::completion::vm_names;
use super::report::{self, PrintableProblem};
use super::{Exit, StateArgs};
use crate::base::problem::Severity;
use crate::plan::Accelerator;
use crate::state::details::{Machine, Uplink, VmDetails};
use crate::state::status::WindowsStatus;

/// The version of the JSON document that `--json` prints.
const STATUS_VERSION: u32 = 1;
const MIB: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The VM's name
    #[arg(add = ArgValueCompleter::new(vm_names))]
    name: String,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    state: StateArgs,
}

#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    #[serde(flatten)]
    vm: &'a VmDetails,
}

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let installed = args.state.installed();
    let name = installed.known(&args.name)?;
    let vm = VmDetails::of(&installed, &name);
    report::to_stdout("the status", |mut out| match args.json {
        true => {
            serde_json::to_writer_pretty(&mut out, &Status { version: STATUS_VERSION, vm: &vm })?;
            writeln!(out)
        }
        false => print(&mut out, &vm),
    })?;
    Ok(installed.problem.as_ref().map_or(Exit::Fine, Exit::of_problem))
}

fn print(out: &mut impl Write, vm: &VmDetails) -> io::Result<()> {
    let since = vm.since.and_then(ago).map_or_else(String::new, |time| format!(" for {}", span(time)));
    // What is stale, and the problems of a VM that cannot run, have lines of their own.
    let is_said = !vm.status.stale.is_empty() || !vm.problems.is_empty();
    let why = vm.status.detail.as_ref().filter(|_| !is_said);
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    writeln!(out, "{}: {}{since}{why}", vm.status.name, vm.status.state)?;
    for (what, text) in lines(vm) {
        writeln!(out, "  {what:10}  {text}")?;
    }
    let problems = vm.problems.iter().cloned();
    let problems: Vec<_> =
        problems.map(|problem| PrintableProblem::of_catalog(Severity::Error, problem)).collect();
    report::write(out, &problems)?;
    if !vm.log.is_empty() {
        writeln!(out, "The last lines of its serial console:")?;
    }
    vm.log.iter().try_for_each(|line| writeln!(out, "  {line}"))
}

fn lines(vm: &VmDetails) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let (Some(source), Some(directory)) = (&vm.status.source, &vm.directory) {
        lines.push(("source", format!("{source}: {directory}")));
    }
    if let Some(hypervisor) = &vm.status.hypervisor {
        let emulated = vm.machine.as_ref().is_some_and(|it| it.accelerator == Accelerator::Tcg);
        let how = if emulated { ", without KVM (slow)" } else { "" };
        lines.push(("hypervisor", format!("{hypervisor}{how}")));
    }
    let memory = vm.machine.as_ref().map(|machine| format!("{} MiB for the guest", machine.memory_mib));
    let used = vm.memory_used.map(|bytes| format!("{} MiB used", bytes / MIB));
    push_joined(&mut lines, "memory", [memory, used]);
    let count = |machine: &Machine| match machine.vcpus {
        1 => "1 processor".to_owned(),
        several => format!("{several} processors"),
    };
    let used = vm.cpu_used_ns.map(|time| format!("{} used", span(Duration::from_nanos(time))));
    push_joined(&mut lines, "processor", [vm.machine.as_ref().map(count), used]);
    if let Some(uid) = vm.status.uid {
        lines.push(("user id", uid.to_string()));
    }
    if vm.status.autostart {
        lines.push(("autostart", "with the host".to_owned()));
    }
    if vm.status.cluster {
        lines.push(("managed", "by the cluster".to_owned()));
    }
    if let Some(machine) = &vm.machine {
        let links = machine.links.iter();
        lines.extend(
            links.map(|it| ("address", format!("{} from {} (link {})", it.ipv4, it.provider, it.id))),
        );
        lines.extend(machine.uplink.iter().map(|it| ("uplink", uplink(it))));
        lines.extend(machine.shares.iter().map(|it| ("share", format!("{}: {}", it.tag, it.directory))));
        lines.extend(machine.images.iter().map(|it| ("image", format!("{}: {}", it.entry, it.path))));
        lines.extend(machine.pci_devices.iter().map(|it| ("device", it.clone())));
    }
    lines.extend(vm.status.windows.as_ref().map(|it| ("windows", windows(it))));
    lines.extend(vm.status.stale.iter().map(|why| ("stale", why.to_string())));
    lines
}

fn uplink(uplink: &Uplink) -> String {
    let ports =
        if uplink.ports.is_empty() { String::new() } else { format!(", ports {}", uplink.ports.join(" ")) };
    format!("{} from the host{ports}", uplink.ipv4)
}

fn push_joined<'a>(lines: &mut Vec<(&'a str, String)>, what: &'a str, parts: [Option<String>; 2]) {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if !parts.is_empty() {
        lines.push((what, parts.join(", ")));
    }
}

fn windows(windows: &WindowsStatus) -> String {
    let Some(user) = windows.user else { return "none: no wayland-user is configured".to_owned() };
    let now = match windows.compositor {
        Some(true) | None => "",
        Some(false) => ", which shows none now (see systemctl --user status microvm-spectrum-wayland there)",
    };
    format!("in the session of user {user}{now}")
}

/// How long ago a moment was, in seconds since 1970; none in the future.
fn ago(moment: u64) -> Option<Duration> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(moment))?.elapsed().ok()
}

/// A span of time in its two largest units.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units =
        [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let first = units.iter().position(|(number, _)| *number > 0).unwrap_or(3);
    let shown = units.iter().skip(first).take(2).filter(|(number, _)| *number > 0 || first == 3);
    shown.map(|(number, unit)| format!("{number} {unit}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3723, "1 h 2 min"),
            (86400, "1 d"),
            (900_061, "10 d 10 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
