// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A directory is refused, or a VMM gets exactly the intended arguments.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::directory::definition::{self, Definition, Location};
use microvm_spectrum::hypervisor;
use microvm_spectrum::hypervisor::description::FilePaths;
use microvm_spectrum::package::planning;
use microvm_spectrum::package::{Entry, Package};
use microvm_spectrum::plan::{HypervisorName, Plan};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::directory::{Built, Contents, Intended, Verdict, case};
use crate::names::Name;
use crate::vector::{self, Interface};
use crate::workspace::{Space, blamed, bytes, choices, number, run, runner, stand_in, well_formed};
use crate::{names, support};

const PROGRAM: &str = "/opt/microvm-spectrum";
/// PCI devices of which a VM has none, one or both.
const DEVICES: [&str; 2] = ["0000:01:00.0", "10de:fe:1f.7"];

/// What came of the cases.
#[derive(Default)]
struct Counts {
    accepted: Cell<u32>,
    refused: Cell<u32>,
    executed: Cell<u32>,
}

fn count(cell: &Cell<u32>) -> u32 {
    cell.set(cell.get() + 1);
    cell.get()
}

#[test]
fn a_directory_is_refused_or_means_what_it_says() {
    let cases = number("MICROVM_SPECTRUM_CASES", 20_000);
    let every = number("MICROVM_SPECTRUM_STAND_IN_EVERY", 4).max(1);
    let space = Space::new();
    let vmm = stand_in(&space, "a VMM, \"with\" a name=[%]\\");
    let kernel = space.file("kernel", &support::vm_directory::elf_header(), 0o644);
    let contents = Contents { kernel: &kernel, image: b"" };
    let counts = Counts::default();
    let result = runner(cases).run(&case(), |case| {
        let built = case.build(&space.fresh("case"), contents);
        let execute = (counts.accepted.get() + 1).is_multiple_of(every);
        match check(&built, &vmm, execute).map_err(TestCaseError::fail)? {
            true => {
                count(&counts.accepted);
                if execute {
                    count(&counts.executed);
                }
            }
            false => {
                count(&counts.refused);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (accepted, refused, executed) = (counts.accepted.get(), counts.refused.get(), counts.executed.get());
    println!("{cases} directories: {accepted} accepted ({executed} executed, twice), {refused} refused");
    // A program that refuses, or accepts, everything has proven nothing.
    assert!(accepted >= cases / 4, "only {accepted} of {cases} directories were accepted");
    assert!(refused >= cases / 4, "only {refused} of {cases} directories were refused");
    assert!(executed >= accepted / every / 2, "only {executed} of {accepted} were executed");
}

/// Checks one directory, and returns whether it was accepted.
fn check(built: &Built, vmm: &Path, execute: bool) -> Result<bool, String> {
    let location = Location::find(&built.directory, None, &built.allowed).map_err(|p| p.to_string())?;
    let reading = definition::read(&location, Architecture::X86_64);
    let problems = well_formed(reading.problems)?;
    let Some(definition) = reading.definition else {
        return match &built.verdict {
            Verdict::Refuse(blame) => blamed(&problems, blame).map(|()| false),
            Verdict::Accept(_) => Err(format!("refused without need: {problems:?}")),
        };
    };
    let mut accepted = 0;
    for hypervisor in HypervisorName::ALL {
        let mut choices = choices(hypervisor, vmm, Path::new(PROGRAM));
        let devices = DEVICES.get(..definition.images.len() % 3).unwrap();
        choices.devices = devices.iter().map(|device| device.parse().unwrap()).collect();
        let is_refused = hypervisor == HypervisorName::CloudHypervisor && definition.wayland;
        match (planning::make(&definition, &choices), &built.verdict) {
            (made, Verdict::Accept(_)) if is_refused => {
                let problems = made.err().ok_or("accepted in spite of its windows")?;
                blamed(&well_formed(problems)?, &[vec![built.directory.join("wayland")]])?;
                accepted += 1;
            }
            (Err(problems), Verdict::Refuse(blame)) => blamed(&well_formed(problems)?, blame)?,
            (Err(problems), Verdict::Accept(_)) => {
                return Err(format!("refused without need: {problems:?}"));
            }
            (Ok(_), Verdict::Refuse(blame)) => return Err(format!("accepted in spite of {blame:?}")),
            (Ok(plan), Verdict::Accept(intended)) => {
                check_plan(&plan, &definition, intended, devices, vmm, execute)
                    .map_err(|e| format!("{hypervisor}: {e}"))?;
                accepted += 1;
            }
        }
    }
    match accepted {
        0 => Ok(false),
        2 => Ok(true),
        _ => Err("accepted by one hypervisor and not by the other".to_owned()),
    }
}

fn check_plan(
    plan: &Plan,
    definition: &Definition,
    intended: &Intended,
    devices: &[&str],
    vmm: &Path,
    execute: bool,
) -> Result<(), String> {
    let same = |what: &str, same: bool| if same { Ok(()) } else { Err(format!("{what} differs")) };
    let files = FilePaths::of(plan);
    same("the kernel", files.kernel == intended.kernel)?;
    same("the list of images", files.images == intended.images)?;
    same("the name", definition.name.as_str() == intended.name)?;
    let shares: Vec<_> = plan.shares.iter().map(|s| (s.tag.clone(), s.source.clone())).collect();
    same("the list of shares", shares == intended.shares)?;
    let interfaces = interfaces(plan, intended)?;

    let implementation = hypervisor::description(plan.hypervisor);
    let command = implementation.command(plan, &files);
    let received = if execute { run(&command) } else { bytes(&command) };
    same("what the stand-in received", received == bytes(&command))?;
    let program = vmm.to_str().unwrap();
    vector::check(plan.hypervisor, program, intended, &interfaces, devices, &received)?;

    // What the supervisor really gives the VMM: no name of a file at all.
    let inherited = FilePaths::inherited(plan, false);
    let numbered = |n: usize| format!("/proc/self/fd/{n}");
    let without_names = Intended {
        kernel: numbered(10),
        images: (11..).take(intended.images.len()).map(numbered).collect(),
        ..intended.clone()
    };
    let command = bytes(&implementation.command(plan, &inherited));
    vector::check(plan.hypervisor, program, &without_names, &interfaces, devices, &command)?;

    let manifest = plan.to_manifest();
    let again = Plan::from_manifest(&manifest).map_err(|e| format!("its own manifest {e}"))?;
    same("the plan read from its manifest", again == *plan)?;
    check_package(plan, intended, &interfaces, devices)
}

/// The interfaces of the plan, checked against [the addresses of links](../../docs/networking.md#addresses).
fn interfaces(plan: &Plan, intended: &Intended) -> Result<Vec<Interface>, String> {
    let mut links = std::collections::BTreeSet::new();
    let providers: Vec<_> = plan.interfaces.iter().map(|i| i.provider.as_str()).collect();
    if providers != intended.providers {
        return Err(format!("the providers are {providers:?}"));
    }
    let mut interfaces = Vec::new();
    for interface in &plan.interfaces {
        let link = interface.link.to_string();
        let id = u16::from_str_radix(&link, 16).map_err(|e| e.to_string())?;
        let [high, low] = id.to_be_bytes();
        let tap = format!("vmc-{id:04x}");
        let mac = format!("0A:B3:EC:00:{high:02X}:{low:02X}");
        let fits = link == format!("{id:04x}")
            && *interface.tap == tap
            && interface.mac.to_string() == mac
            && interface.ipv4.octets() == [100, 64, high, low];
        if !fits || matches!(id, 0 | 0xffff) || !links.insert(id) {
            return Err(format!("no such link: {interface:?}"));
        }
        interfaces.push((tap, mac));
    }
    Ok(interfaces)
}

/// Checks the whole package, whose every entry is known beforehand.
fn check_package(
    plan: &Plan,
    intended: &Intended,
    interfaces: &[Interface],
    devices: &[&str],
) -> Result<(), String> {
    let mut expected = BTreeMap::new();
    let mut script = |name: &str, verb: &str| {
        let text = format!("#!/bin/sh\nexec {PROGRAM} vm {verb} --package \"$0\" \"$@\"\n");
        expected.insert(format!("bin/{name}"), Entry::Executable(text));
    };
    script("microvm-run", "run");
    script("microvm-shutdown", "shutdown");
    script("microvm-console", "console");
    if !interfaces.is_empty() {
        script("tap-up", "tap-up");
        script("tap-down", "tap-down");
    }
    if !intended.shares.is_empty() {
        script("virtiofsd-run", "virtiofsd");
    }
    if !devices.is_empty() {
        script("pci-setup", "pci-setup");
    }
    let mut file = |name: &str, text: String| {
        expected.insert(format!("share/{name}"), Entry::File(text));
    };
    file("microvm/hypervisor", format!("{}\n", plan.hypervisor.as_str()));
    for (index, (tag, source)) in intended.shares.iter().enumerate() {
        let socket = format!("{}.virtiofs-{index}.sock\n", intended.name);
        file(&format!("microvm/virtiofs/{tag}/source"), format!("{source}\n"));
        file(&format!("microvm/virtiofs/{tag}/socket"), socket);
    }
    if !interfaces.is_empty() {
        file("microvm/tap-interfaces", interfaces.iter().map(|(tap, _)| format!("{tap}\n")).collect());
        file("microvm/tap-flags", "vnet_hdr\n".to_owned());
    }
    if !devices.is_empty() {
        file("microvm/pci-devices", devices.iter().map(|device| format!("{device}\n")).collect());
    }
    let manifest = plan.to_manifest();
    let digest: String = Sha256::digest(&manifest).iter().map(|b| format!("{b:02x}")).collect();
    file("microvm-spectrum/manifest.json", manifest);
    let mut link = |name: &str, target: String| {
        expected.insert(format!("share/{name}"), Entry::Link(target.into()));
    };
    link("microvm/system", format!("../microvm-spectrum/sha256-{digest}"));
    link(&format!("microvm-spectrum/sha256-{digest}"), "manifest.json".to_owned());

    let Package(entries) = Package::of(plan);
    // As text: paths that compare equal can be written in several ways.
    let entries: BTreeMap<_, _> = entries
        .into_iter()
        .map(|(path, entry)| (path.into_os_string().into_string().unwrap(), entry))
        .collect();
    if entries == expected {
        return Ok(());
    }
    let odd = |a: &BTreeMap<String, Entry>, b: &BTreeMap<String, Entry>| -> Vec<_> {
        a.iter()
            .filter(|(path, entry)| b.get(*path) != Some(entry))
            .map(|(p, e)| format!("{p:?}: {e:?}"))
            .collect()
    };
    let (got, should) = (odd(&entries, &expected), odd(&expected, &entries));
    Err(format!("the package has {got:?} and should have {should:?}"))
}

#[test]
fn scripts_pass_everything_on() {
    let space = Space::new();
    let kernel = space.file("kernel", &support::vm_directory::elf_header(), 0o644);
    let contents = Contents { kernel: &kernel, image: b"" };
    let simple = crate::directory::Case {
        partition: Name::new("partition"),
        vm: Name::new("vm"),
        kernel: crate::directory::File::Plain,
        images: [(Name::new("root.img"), crate::directory::File::Plain)].into(),
        shares: BTreeMap::new(),
        providers: [].into(),
        strays: Vec::new(),
        wayland: false,
    };
    let built = simple.build(&space.fresh("vm"), contents);
    let location = Location::find(&built.directory, None, &built.allowed).unwrap();
    let definition = definition::read(&location, Architecture::X86_64).definition.unwrap();
    let executed = Cell::new(0);
    // The program and the package lie where the administrator says, under whatever names.
    let strategy = (names::name(), names::name(), prop::collection::vec(names::name(), 0..4));
    let result = runner(300).run(&strategy, |(program, output, arguments)| {
        let base = space.fresh("tools");
        fs::create_dir(base.join("bin")).unwrap();
        let program = base.join("bin").join(program.os());
        fs::copy(stand_in(&space, "template"), &program).unwrap();
        let choices = choices(HypervisorName::Qemu, Path::new("/opt/qemu"), &program);
        let plan = match planning::make(&definition, &choices) {
            Ok(plan) => plan,
            Err(problems) => {
                let problems = well_formed(problems).map_err(TestCaseError::fail)?;
                blamed(&problems, &[vec![program.clone()]]).map_err(TestCaseError::fail)?;
                prop_assert!(program.to_str().is_none());
                return Ok(());
            }
        };
        let package: PathBuf = base.join(output.numbered(1).os());
        let package = match package.file_name() {
            Some(name) if name.len() < 200 => package,
            _ => base.join("1"),
        };
        Package::of(&plan).write(&package, false).unwrap();
        let script = package.join("bin/microvm-shutdown");
        let mut command = vec![script.clone().into_os_string()];
        command.extend(arguments.iter().map(|a| a.os().to_owned()));
        let mut expected: Vec<OsString> = vec![program.into()];
        expected.extend(["vm", "shutdown", "--package"].map(OsString::from));
        expected.push(script.into());
        expected.extend(command[1..].iter().cloned());
        prop_assert_eq!(run(&command), bytes(&expected));
        count(&executed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(executed.get() > 200, "only {} scripts were executed", executed.get());
}
