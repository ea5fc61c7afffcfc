// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! `microvm-spectrum build`

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{Exit, LocationArgs, host_architecture, read_definition, report};
use crate::base::architecture::Architecture;
use crate::base::name::VmName;
use crate::base::printable::printable;
use crate::base::problem::Problems;
use crate::base::tool::{Tool, ToolError};
use crate::config::AcceleratorChoice;
use crate::directory::declared::Declaration;
use crate::directory::definition::{Scan, SharedDirectories};
use crate::link::id::{LinkError, LinkId};
use crate::package::planning::{self, Choices};
use crate::package::{Package, check_output};
use crate::plan::guest_owner::{GuestOwners, guest_id};
use crate::plan::pci::{PciAddress, PciAddressError};
use crate::plan::uplink::{PortForward, PortForwardError};
use crate::plan::{HypervisorName, Plan};

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The VM directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Where to write the runner package
    #[arg(long, value_name = "OUT")]
    output: PathBuf,

    /// Replace an existing package, in one step
    #[arg(long)]
    force: bool,

    /// The hypervisor that runs the VM
    #[arg(long, value_enum, default_value_t = HypervisorName::CloudHypervisor)]
    hypervisor: HypervisorName,

    /// The guest's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = planning::DEFAULT_MEMORY_MIB)]
    memory: u32,

    /// The number of virtual processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u16,

    #[command(flatten)]
    location: LocationArgs,

    /// Use this program instead of the one in PATH; can be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_tool)]
    tool: Vec<(Tool, PathBuf)>,

    /// For how many clients the VM can provide a network
    #[arg(long, value_name = "N", default_value_t = planning::DEFAULT_LINK_PORTS)]
    link_ports: u8,

    /// The address space for the buffers of the guest's windows in MiB, a power of two
    #[arg(long, value_name = "MIB", default_value_t = planning::DEFAULT_WAYLAND_MEMORY_MIB)]
    wayland_memory: u32,

    /// The id of the link to a network provider, four hexadecimal digits, instead of the derived one
    #[arg(long, value_name = "PROVIDER=ID", value_parser = parse_link)]
    link: Vec<(VmName, LinkId)>,

    /// Give the VM a PCI device of the host, such as 0000:01:00.0; can be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = parse_device)]
    device: Vec<PciAddress>,

    /// Connect the VM to the host's network, by passt
    #[arg(long)]
    uplink: bool,

    /// Forward a port of the host to the guest, such as 127.0.0.1:8080:80, with /udp behind it for UDP; can be repeated
    #[arg(long, value_name = "ADDRESS:HOSTPORT:GUESTPORT", value_parser = parse_port, requires = "uplink")]
    port: Vec<PortForward>,

    /// The guest's user that the shared directories belong to, or the one with this tag; can be repeated
    #[arg(long, value_name = "[TAG=]UID", value_parser = parse_guest_id)]
    guest_uid: Vec<(Option<String>, u32)>,

    /// The guest's group that the shared directories belong to, or the one with this tag; can be repeated
    #[arg(long, value_name = "[TAG=]GID", value_parser = parse_guest_id)]
    guest_gid: Vec<(Option<String>, u32)>,

    /// Allow shared directories that exist only on the host that runs the VM: check absolute links by
    /// their text here, and follow them when the VM starts
    #[arg(long)]
    shares_elsewhere: bool,

    /// Refuse DIR unless it has exactly these: a JSON object with `providers` (names) and `shares`
    /// (the directory of each tag, or null)
    #[arg(long, value_name = "FILE")]
    declared: Option<PathBuf>,

    /// Make share/microvm/system a link to PATH, instead of the package's own identification
    #[arg(long, value_name = "PATH", value_parser = super::absolute)]
    system: Option<PathBuf>,

    /// What executes the guest's instructions (QEMU only); auto uses kvm if a short test guest runs
    #[arg(long, value_enum)]
    accel: Option<AcceleratorChoice>,
}

pub(super) fn parse_tool(text: &str) -> Result<(Tool, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or_else(|| ToolError::Syntax.to_string())?;
    let tool = name.parse().map_err(|e: ToolError| e.to_string())?;
    let path = std::path::absolute(path).map_err(|_| ToolError::Syntax.to_string())?;
    Ok((tool, path))
}

fn parse_link(text: &str) -> Result<(VmName, LinkId), String> {
    let (provider, id) = text.split_once('=').ok_or("expected PROVIDER=ID, such as netvm=a546")?;
    let provider = VmName::new(provider).map_err(|error| error.to_string())?;
    Ok((provider, id.parse().map_err(|error: LinkError| error.to_string())?))
}

fn parse_device(text: &str) -> Result<PciAddress, String> {
    text.parse().map_err(|error: PciAddressError| error.to_string())
}

fn parse_port(text: &str) -> Result<PortForward, String> {
    text.parse().map_err(|error: PortForwardError| error.to_string())
}

fn parse_guest_id(text: &str) -> Result<(Option<String>, u32), String> {
    // A tag can have the sign in it.
    let (tag, id) = text.rsplit_once('=').map_or((None, text), |(tag, id)| (Some(tag.to_owned()), id));
    // What is no number is none that an id can be.
    Ok((tag, guest_id(id.parse().unwrap_or(-1)).map_err(|error| error.to_string())?))
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<Exit> {
    if args.accel.is_some() && args.hypervisor != HypervisorName::Qemu {
        report::line(&format!("--accel is for QEMU only; {} always uses KVM", args.hypervisor));
        return Ok(Exit::Usage);
    }
    let mut problems = Problems::default();
    let plan = plan(args, &mut problems)?;
    let exit = Exit::of_problems(&problems);
    report::to_stderr(&problems.into_sorted());
    let Some(plan) = plan.filter(|_| exit == Exit::Fine) else {
        report::line("nothing was built");
        return Ok(exit);
    };
    let mut package = Package::of(&plan);
    if let Some(system) = &args.system {
        package = package.identified_by(system.clone());
    }
    if let Some(left) = package.write(&args.output, args.force)? {
        let left = printable(left);
        report::line(&format!("the old package cannot be removed; it is now {left}"));
    }
    Ok(Exit::Fine)
}

/// The plan of the VM directory, unless it has errors.
fn plan(args: &BuildArgs, problems: &mut Problems) -> anyhow::Result<Option<Plan>> {
    let architecture = host_architecture()?;
    let declaration = args.declared.as_deref().map(Declaration::read).transpose()?;
    let shared = match args.shares_elsewhere {
        true => SharedDirectories::Elsewhere,
        false => SharedDirectories::Here,
    };
    let tools = super::find_tools(args.tool.iter().cloned().collect());
    let ask_qemu = || super::shows_windows(&tools, architecture);
    let scan = Scan::new(architecture).with_shared(shared);
    let (definition, found) =
        read_definition(&args.directory, &args.location, args.hypervisor, &scan, &ask_qemu);
    problems.extend(found.into_sorted());
    if let (Some(declaration), Some(definition)) = (&declaration, &definition) {
        problems.extend(declaration.check(definition).into_sorted());
    }
    if args.uplink {
        let ask_passt = || super::has_vhost_user(&tools);
        problems.extend(planning::uplink_problem(&args.directory, args.hypervisor, &ask_passt));
    }
    let choices = choices(args, architecture, tools);
    let plan = match definition {
        Some(definition) => planning::make(&definition, &choices),
        None => Err(planning::check_choices(&choices, &args.directory)),
    };
    let plan = plan.map_err(|more| problems.extend(more.into_sorted())).ok();
    problems.extend(plan.as_ref().and_then(|plan| check_output(plan, &args.output)));
    Ok(plan)
}

fn guest_owners(args: &BuildArgs) -> GuestOwners {
    let mut owners = GuestOwners::default();
    for (tag, uid) in args.guest_uid.iter().cloned() {
        owners.chosen_for(tag).uid = Some(uid);
    }
    for (tag, gid) in args.guest_gid.iter().cloned() {
        owners.chosen_for(tag).gid = Some(gid);
    }
    owners
}

fn choices(args: &BuildArgs, architecture: Architecture, tools: BTreeMap<Tool, PathBuf>) -> Choices {
    let chosen = args.accel.and_then(AcceleratorChoice::chosen);
    let probe = || super::usable_accelerator(&tools, architecture, None);
    Choices {
        hypervisor: args.hypervisor,
        architecture,
        memory_mib: args.memory,
        vcpus: args.vcpus,
        accelerator: planning::accelerator(args.hypervisor, chosen, probe),
        tools,
        link_ports: args.link_ports,
        links: args.link.iter().cloned().collect(),
        devices: args.device.clone(),
        guest_owners: guest_owners(args),
        uplink: args.uplink.then(|| args.port.clone()),
        wayland_memory_mib: args.wayland_memory,
    }
}
