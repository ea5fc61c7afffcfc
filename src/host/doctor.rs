// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What this host lacks to run VMs, and what earlier runs have left on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{DEFAULT_USER, units};
use crate::base::architecture::Architecture;
use crate::base::problem::{Problem, Problems};
use crate::base::tool::Tool;
use crate::config::UidRange;
use crate::hypervisor::kvm_probe::NoKvm;
use crate::hypervisor::{self, kvm_probe, passt_probe, wayland_probe};
use crate::plan::HypervisorName;
use crate::state::installed::Installed;
use crate::state::started::Started;
use crate::state::unreadable;
use crate::system::{accounts, program, systemd};

/// How long a program may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);
/// How few free user ids are worth a note.
const FEW_UIDS: usize = 10;
/// Lists the services that know the host's accounts.
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// How many user namespaces there may be.
const USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// What is examined, beside the system.
pub struct Patient<'a> {
    /// The installed VMs.
    pub installed: &'a Installed,
    /// Where programs are.
    pub tools: &'a BTreeMap<Tool, PathBuf>,
    /// The architecture of this host.
    pub architecture: Architecture,
    /// The hypervisor of VMs that name none.
    pub hypervisor: HypervisorName,
    /// The user ids that VMs get, and the file that says so.
    pub uids: (&'a UidRange, &'a Path),
}

/// Everything that this host lacks: errors keep VMs from running, notes say what some VMs go without.
pub fn examine(patient: &Patient) -> Problems {
    let mut problems = Problems::default();
    problems.extend(tools(patient));
    problems.extend(qemu(patient));
    problems.extend(passt(patient));
    problems.extend(devices());
    problems.extend(user_namespaces());
    problems.extend(account_services());
    problems.extend(free_uids(patient));
    if systemd::is_running() {
        problems.extend(unit_files(patient));
        problems.extend(leftovers(patient));
    } else {
        let remedy = "run VMs by hand (microvm-run of their packages), or boot this host with systemd";
        problems.push(Problem::host("/run/systemd/system", "systemd is not the init system here", remedy));
    }
    problems
}

fn tools(patient: &Patient) -> Vec<Problem> {
    let mut problems: Vec<_> = [Tool::Ip, Tool::Nft, Tool::Virtiofsd]
        .into_iter()
        .filter_map(|tool| {
            missing(patient, tool).map(|(path, cause)| Problem::host(path, cause, install(tool)))
        })
        .collect();
    for name in HypervisorName::ALL {
        for tool in hypervisor::description(name).tools(patient.architecture) {
            problems.extend(missing(patient, *tool).map(|(path, cause)| match name == patient.hypervisor {
                true => Problem::host(path, cause, install(*tool)),
                false => Problem::note(path, format!("{cause}: no VM can have {name}"), install(*tool)),
            }));
        }
    }
    problems
}

/// A program that is not there or too old, and how that is.
fn missing(patient: &Patient, tool: Tool) -> Option<(PathBuf, String)> {
    let Some(path) = patient.tools.get(&tool) else {
        return Some((tool.as_str().into(), "is not in PATH".to_owned()));
    };
    if !path.is_file() {
        return Some((path.clone(), "does not exist".to_owned()));
    }
    let ((major, minor), found) = (oldest(tool)?, version(path)?);
    let cause = || format!("has version {}.{}, and VMs need {major}.{minor} or later", found.0, found.1);
    (found < (major, minor)).then(|| (path.clone(), cause()))
}

/// The oldest version of a program with which VMs run, where that matters.
fn oldest(tool: Tool) -> Option<(u32, u32)> {
    match tool {
        Tool::CloudHypervisor => Some((52, 0)),
        Tool::QemuAarch64 | Tool::QemuX86 => Some((7, 2)),
        Tool::Virtiofsd => Some((1, 13)),
        _ => None,
    }
}

/// The version that a program says it has, if it does.
fn version(path: &Path) -> Option<(u32, u32)> {
    let said = program::output_until(Command::new(path).arg("--version"), Instant::now() + VERSION_TIMEOUT);
    version_in(&String::from_utf8_lossy(&said.ok()?))
}

/// The first version in a text, such as `QEMU emulator version 7.2.22 (Debian …)`.
fn version_in(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.strip_prefix('v').unwrap_or(word).split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

/// What uplinks need of passt.
fn passt(patient: &Patient) -> Option<Problem> {
    let Some(path) = patient.tools.get(&Tool::Passt).filter(|path| path.is_file()) else {
        let remedy = install(Tool::Passt);
        return Some(Problem::note(Tool::Passt.as_str(), "is not in PATH: no VM can have an uplink", remedy));
    };
    let remedy = "use passt 2024_11 or later, as Debian 13 and Nixpkgs have it";
    let old = match (passt_probe::guards_loopback(path), passt_probe::has_vhost_user(path)) {
        (true, true) => return None,
        (true, false) => "has no vhost-user: no VM of Cloud Hypervisor can have an uplink",
        (false, _) => {
            "is old: no VM of Cloud Hypervisor can have an uplink, and a hostile guest to which ports of the \
             loopback are forwarded reaches all of the host's loopback"
        }
    };
    Some(Problem::note(path, old, remedy))
}

fn install(tool: Tool) -> String {
    format!("install it ({}), or name its path in [tools] of the configuration", tool.origin())
}

/// Whether QEMU has KVM and its device for windows; without QEMU, whether there is a KVM.
fn qemu(patient: &Patient) -> Vec<Problem> {
    const KVM: &str = "/dev/kvm";
    let turn_on = "run this as root; if it is no better, load kvm_intel or kvm_amd and turn virtualisation on in the \
                   firmware; until then use QEMU with accel = 'tcg', which is slow";
    let program = hypervisor::description(HypervisorName::Qemu).tools(patient.architecture).first();
    let Some(program) = program.and_then(|tool| patient.tools.get(tool)).filter(|path| path.is_file()) else {
        let opened = File::options().read(true).write(true).open(KVM);
        return opened
            .err()
            .map(|error| Problem::note(KVM, error.to_string(), turn_on))
            .into_iter()
            .collect();
    };
    let kvm = kvm_probe::probe(program, patient.architecture).err();
    let kvm = kvm.map(|why| match why {
        NoKvm::Broken(why) => Problem::note(KVM, format!("VMs cannot use KVM: {why}"), turn_on),
        NoKvm::Slow => Problem::note(
            KVM,
            format!("is {why}"),
            "run this again when the host has less to do; accel = 'kvm' has VMs use it nevertheless",
        ),
    });
    let windows = wayland_probe::probe(program).err().map(|why| {
        let cause = format!("VMs cannot show windows: {why}");
        Problem::note(program, cause, "use a QEMU with rutabaga, or VMs without windows")
    });
    kvm.into_iter().chain(windows).collect()
}

fn devices() -> Vec<Problem> {
    let is_there = |path: &str| Path::new(path).exists();
    let mut problems = Vec::new();
    if !is_there("/dev/net/tun") {
        let remedy = "load the kernel module tun, at each boot by a file in /etc/modules-load.d";
        problems.push(Problem::host("/dev/net/tun", "does not exist: VMs have no networks", remedy));
    }
    if !is_there("/dev/vhost-net") {
        let cause = "does not exist: the monitors move each frame of a network themselves, which is slower";
        problems.push(Problem::note("/dev/vhost-net", cause, "load the kernel module vhost_net"));
    }
    problems
}

fn user_namespaces() -> Option<Problem> {
    match fs::read_to_string(USER_NAMESPACES) {
        Ok(text) if text.trim() != "0" => None,
        Ok(_) => Some("is 0: virtiofsd and the units of VMs need user namespaces"),
        Err(_) => Some("does not exist: virtiofsd and the units of VMs need user namespaces"),
    }
    .map(|cause| {
        let remedy =
            "set the sysctl user.max_user_namespaces to 1000 or more; the kernel needs CONFIG_USER_NS";
        Problem::host(USER_NAMESPACES, cause, remedy)
    })
}

/// VMs are users that only nss-systemd knows.
fn account_services() -> Vec<Problem> {
    let mut problems = Vec::new();
    let text = match fs::read_to_string(NSSWITCH) {
        Ok(text) => text,
        Err(error) => return vec![unreadable(Path::new(NSSWITCH))(error)],
    };
    for database in lacking_systemd(&text) {
        let cause = format!("does not name systemd for {database}: the users of VMs have no accounts");
        let remedy = format!(
            "install nss-systemd (package libnss-systemd of Debian), and end the line '{database}:' with systemd"
        );
        problems.push(Problem::host(NSSWITCH, cause, remedy));
    }
    if !matches!(accounts::user_id(DEFAULT_USER), Ok(Some(_))) {
        let remedy = "run systemd-sysusers after the unit files are installed";
        problems.push(Problem::host("/etc/passwd", format!("has no user {DEFAULT_USER}"), remedy));
    }
    problems
}

/// The databases of accounts for which an `nsswitch.conf(5)` does not name systemd.
fn lacking_systemd(text: &str) -> Vec<&'static str> {
    let names_it = |database: &str| {
        let lines = text.lines().filter_map(|line| line.split('#').next()?.split_once(':'));
        let mut services = lines.filter(|(key, _)| key.trim() == database).map(|(_, services)| services);
        services.any(|services| services.split_whitespace().any(|service| service == "systemd"))
    };
    ["passwd", "group"].into_iter().filter(|database| !names_it(database)).collect()
}

fn free_uids(patient: &Patient) -> Option<Problem> {
    let (UidRange { first, last }, config) = patient.uids;
    let catalog = patient.installed.catalog.as_ref();
    let running = catalog.into_iter().flat_map(|catalog| catalog.known().map(|(_, vm)| vm.uid));
    let removed = catalog.into_iter().flat_map(|catalog| catalog.leases.iter().filter_map(|lease| lease.uid));
    let leased = running.chain(removed).filter(|uid| (first..=last).contains(&uid)).count();
    let all = usize::try_from(last.saturating_sub(*first)).map_or(usize::MAX, |more| more.saturating_add(1));
    let free = all.saturating_sub(leased);
    let cause = format!("{free} of the user ids {first} to {last} are free");
    let remedy = "forget removed VMs (microvm-spectrum list --all shows them), or set last in [uids] higher";
    match free {
        0 => Some(Problem::host(config, cause, remedy)),
        few if few < FEW_UIDS => Some(Problem::note(config, cause, remedy)),
        _ => None,
    }
}

fn unit_files(patient: &Patient) -> Vec<Problem> {
    const TEMPLATE: &str = "microvm@.service";
    let remedy = "install them: microvm-spectrum units --output LIB, then systemctl daemon-reload";
    let Some(file) = systemd::unit_file("microvm@doctor.service") else {
        return vec![Problem::host(TEMPLATE, "systemd does not know this unit", remedy)];
    };
    let directory = file.parent().unwrap_or(&file);
    let own = match std::env::current_exe().map_err(|error| error.to_string()).and_then(|program| {
        units::UnitPaths::new(&program, patient.installed.state.root()).map_err(|error| error.to_string())
    }) {
        Ok(own) => own,
        Err(why) => return vec![Problem::note(directory, format!("cannot be compared: {why}"), remedy)],
    };
    let other = |file: PathBuf| {
        Problem::note(file, "is missing, or of another version or place of this program", remedy)
    };
    units::differing(&own, directory).into_iter().map(other).collect()
}

fn leftovers(patient: &Patient) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, unit) in systemd::loaded().unwrap_or_default() {
        if unit.active == "failed" || unit.failed.is_some() {
            let reason = unit.reason();
            let colon = if reason.raw().is_empty() { "" } else { ": " };
            let cause = format!("has failed{colon}{}", reason.raw());
            let remedy = format!(
                "look at microvm-spectrum status {name}; then start it, or run systemctl reset-failed 'microvm*@{name}.service'"
            );
            problems.push(Problem::note(systemd::unit(&name), cause, remedy));
        }
    }
    let installed = patient.installed;
    for started in Started::all() {
        let name = &started.vm.name;
        if installed.state.booted(name).symlink_metadata().is_err() {
            let remedy = format!("start {name} and stop it again");
            problems.push(Problem::note(Started::path(name), "is left of a VM that does not run", remedy));
        }
    }
    let removed = installed.catalog.as_ref().map_or(0, |catalog| catalog.leases.len());
    if removed > 0 {
        let remedy = "run microvm-spectrum list --all, and forget those that do not come back";
        let cause = format!("{removed} removed VMs keep their user ids and addresses");
        problems.push(Problem::note(installed.state.leases(), cause, remedy));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::{lacking_systemd, version_in};

    #[test]
    fn nsswitch_names_systemd_for_users_and_groups() {
        let debian =
            "passwd:         files systemd\ngroup:\tfiles [SUCCESS=merge] systemd # x\nshadow: files\n";
        assert_eq!(lacking_systemd(debian), [""; 0]);
        assert_eq!(lacking_systemd("passwd: files # systemd\ngroup: files systemd"), ["passwd"]);
        assert_eq!(lacking_systemd("shadow: systemd\npasswd: files mysystemd"), ["passwd", "group"]);
    }
    #[test]
    fn finds_versions() {
        for (text, version) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", Some((7, 2))),
            ("cloud-hypervisor v53.0.0\n", Some((53, 0))),
            ("virtiofsd 1.14.0", Some((1, 14))),
            ("unknown", None),
            ("99999999999.1", None),
            ("", None),
        ] {
            assert_eq!(version_in(text), version, "{text:?}");
        }
    }
}
