// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! QEMU itself opens what a VM directory names, and nothing more.
//!
//! QEMU gets the plan's argument vector and one word besides, `-S`: no guest
//! runs. Over QMP it then tells what it has opened, and the kernel of this
//! machine, in `/proc`, tells the same.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microvm_spectrum::base::architecture::Architecture;
use microvm_spectrum::directory::definition::{self, Location};
use microvm_spectrum::hypervisor;
use microvm_spectrum::hypervisor::description::FilePaths;
use microvm_spectrum::package::planning;
use microvm_spectrum::plan::{HypervisorName, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::directory::{self, Case, Contents, Intended, Verdict, case};
use crate::names::Name;
use crate::workspace::{LINK_PORTS, Space, choices, number, runner, test_guest};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most cases with a virtiofsd for each share.
const MAX_WITH_SHARES: u32 = 40;

/// A process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One client of a QMP socket.
struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    fn connect(qemu: &mut Process, directory: &Path, socket: &str) -> Result<Self, String> {
        // By way of the descriptor: a socket's path has 107 bytes at most.
        let directory = File::open(directory).unwrap();
        let path = format!("/proc/self/fd/{}/{socket}", directory.as_raw_fd());
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => return Err(format!("{socket}: {error}")),
                Err(_) => {}
            }
            if let Some(status) = qemu.0.try_wait().unwrap() {
                return Err(format!("QEMU ended with {status}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qmp = Self { reader: BufReader::new(stream) };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(format!("not a greeting: {greeting}"));
        }
        qmp.execute(json!({"execute": "qmp_capabilities"}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).map_err(|e| e.to_string())?;
        serde_json::from_str(&line).map_err(|e| format!("{e}: {line:?}"))
    }

    fn execute(&mut self, command: Value) -> Result<Value, String> {
        writeln!(self.reader.get_ref(), "{command}").map_err(|e| e.to_string())?;
        loop {
            let mut answer = self.line()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if answer.get("event").is_none() {
                return Err(format!("{command}: {answer}"));
            }
        }
    }
}

/// The tools and files of all cases.
struct Bench {
    space: Space,
    qemu: PathBuf,
    virtiofsd: PathBuf,
    kernel: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let space = Space::new();
        // Hard links to it can be made only there.
        let kernel = space.path.join("kernel");
        fs::copy(test_guest("MICROVM_SPECTRUM_TEST_KERNEL"), &kernel).unwrap();
        let qemu = test_guest("MICROVM_SPECTRUM_TEST_QEMU");
        let virtiofsd = test_guest("MICROVM_SPECTRUM_TEST_VIRTIOFSD");
        Self { space, qemu, virtiofsd, kernel }
    }

    /// Starts QEMU for the case, and returns whether it was an accepted one.
    fn try_case(&self, case: &Case, link_ports: u8) -> Result<bool, String> {
        let contents = Contents { kernel: &self.kernel, image: &[0; 4096] };
        let built = case.build(&self.space.fresh("case"), contents);
        let location = Location::find(&built.directory, None, &built.allowed).map_err(|p| p.to_string())?;
        let Verdict::Accept(intended) = &built.verdict else { return Ok(false) };
        let definition = definition::read(&location, Architecture::X86_64).definition;
        let mut definition = definition.ok_or("refused without need")?;
        // This QEMU may have no device for it.
        definition.wayland = false;
        let mut choices = choices(HypervisorName::Qemu, &self.qemu, Path::new("/opt/microvm-spectrum"));
        choices.link_ports = link_ports;
        let plan = planning::make(&definition, &choices).map_err(|p| format!("{p:?}"))?;
        self.start(&plan, intended).map(|()| true)
    }

    fn start(&self, plan: &Plan, intended: &Intended) -> Result<(), String> {
        let directory = self.space.fresh("run");
        let mut servers = Vec::new();
        for (index, (_, source)) in intended.shares.iter().enumerate() {
            let socket = format!("{}.virtiofs-{index}.sock", intended.name);
            let mut command = Command::new(&self.virtiofsd);
            command.args([
                "--sandbox=none",
                "--log-level=error",
                "--socket-path",
                &socket,
                "--shared-dir",
                source,
            ]);
            servers.push(Process(command.current_dir(&directory).stdin(Stdio::null()).spawn().unwrap()));
            let deadline = Instant::now() + PATIENCE;
            // It ends after its first client: only QEMU may be that.
            while !directory.join(&socket).exists() {
                if Instant::now() > deadline {
                    return Err(format!("virtiofsd did not make {socket}"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let serial = directory.join("serial");
        let mut words = hypervisor::description(HypervisorName::Qemu).command(plan, &FilePaths::of(plan));
        words.push("-S".into());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(File::create(&serial).unwrap())
            .stderr(Stdio::inherit())
            .spawn();
        let mut qemu = Process(child.unwrap());
        let mut qmp = Qmp::connect(&mut qemu, &directory, &format!("{}.control.sock", intended.name))?;
        check_images(&mut qmp, intended)?;
        check_character_devices(&mut qmp, intended)?;
        check_tags(&mut qmp, intended)?;
        check_open_files(&qemu, &serial, intended)?;
        check_sockets(&directory, intended)?;
        let _ = qmp.execute(json!({"execute": "quit"}));
        let status = qemu.0.wait().unwrap();
        if !status.success() {
            return Err(format!("QEMU ended with {status}"));
        }
        Ok(())
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: QEMU has {got:?}, intended is {wanted:?}")) }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Every image is one raw node above one file node, both read-only; the order
/// is that of the virtio-blk devices, so that of the guest's disks.
fn check_images(qmp: &mut Qmp, intended: &Intended) -> Result<(), String> {
    let nodes = qmp.execute(json!({"execute": "query-named-block-nodes"}))?;
    let nodes = nodes.as_array().ok_or("no list of nodes")?;
    let of_driver =
        |driver: &str| -> Vec<&Value> { nodes.iter().filter(|n| text(n, "drv") == driver).collect() };
    let (raw, file) = (of_driver("raw"), of_driver("file"));
    same("the number of block nodes", nodes.len(), raw.len() + file.len())?;
    for node in nodes {
        same("read-only", node.get("ro"), Some(&json!(true)))?;
    }
    let named: BTreeMap<_, _> = raw.iter().map(|n| (text(n, "node-name"), text(n, "file"))).collect();
    let names = (0..).map(|n| format!("disk{n}")).zip(intended.images.iter().cloned());
    same("the images", named, names.collect())?;
    let sorted = |mut files: Vec<String>| {
        files.sort();
        files
    };
    let files = sorted(file.iter().map(|n| text(n, "file")).collect());
    same("the files", files, sorted(intended.images.clone()))?;
    let devices = qmp.execute(json!({"execute": "query-block"}))?;
    let devices = devices.as_array().ok_or("no list of devices")?.iter();
    let inserted: Vec<_> = devices.filter_map(|d| d.get("inserted")).map(|i| text(i, "file")).collect();
    same("the disks", inserted, intended.images.clone())
}

fn check_character_devices(qmp: &mut Qmp, intended: &Intended) -> Result<(), String> {
    let devices = qmp.execute(json!({"execute": "query-chardev"}))?;
    let devices = devices.as_array().ok_or("no list of character devices")?;
    let found: BTreeMap<_, _> = devices.iter().map(|d| (text(d, "label"), text(d, "filename"))).collect();
    same("the number of character devices", devices.len(), found.len())?;
    let name = &intended.name;
    let mut wanted = BTreeMap::from([
        ("serial".to_owned(), "file".to_owned()),
        ("console".to_owned(), format!("disconnected:unix:{name}.console.sock,server=on")),
        ("compat_monitor0".to_owned(), format!("disconnected:unix:{name}.supervisor.sock,server=on")),
        ("compat_monitor1".to_owned(), format!("unix:{name}.control.sock,server=on")),
    ]);
    for index in 0..intended.shares.len() {
        // A client's own end has no name; that there is one means that a server took it.
        wanted.insert(format!("virtiofs-{index}"), "unix:".to_owned());
    }
    same("the character devices", found, wanted)
}

/// The tags of the virtio-fs devices, in the order of the devices.
fn check_tags(qmp: &mut Qmp, intended: &Intended) -> Result<(), String> {
    let mut tags = BTreeMap::new();
    let list =
        qmp.execute(json!({"execute": "qom-list", "arguments": {"path": "/machine/peripheral-anon"}}))?;
    for item in list.as_array().ok_or("no list of devices")? {
        if text(item, "type") != "child<vhost-user-fs-pci>" {
            continue;
        }
        let path = format!("/machine/peripheral-anon/{}", text(item, "name"));
        let mut get = |property: &str| {
            let arguments = json!({"path": path, "property": property});
            qmp.execute(json!({"execute": "qom-get", "arguments": arguments})).map(|v| v.to_string())
        };
        tags.insert(get("chardev")?, get("tag")?);
    }
    let key = |(index, (tag, _)): (usize, &(String, String))| {
        (json!(format!("virtiofs-{index}")).to_string(), json!(tag).to_string())
    };
    let wanted: BTreeMap<_, _> = intended.shares.iter().enumerate().map(key).collect();
    same("the tags", tags, wanted)
}

/// The files beneath the test's directory that QEMU holds, as the kernel sees
/// them: each image, never for writing, and the serial console's output.
fn check_open_files(qemu: &Process, serial: &Path, intended: &Intended) -> Result<(), String> {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let images: Result<BTreeSet<_>, _> = intended.images.iter().map(|i| identity(Path::new(i))).collect();
    let images = images.map_err(|e| e.to_string())?;
    let kernel = identity(Path::new(&intended.kernel)).map_err(|e| e.to_string())?;
    let serial = identity(serial).map_err(|e| e.to_string())?;
    // What the tests were started with, a log for example, QEMU was, too.
    let inherited: BTreeSet<_> = fs::read_dir("/proc/self/fd")
        .map_err(|e| e.to_string())?
        .filter_map(|entry| identity(&entry.ok()?.path()).ok())
        .collect();
    let (mut read, mut outputs) = (BTreeSet::new(), 0);
    let process = PathBuf::from(format!("/proc/{}", qemu.0.id()));
    for entry in fs::read_dir(process.join("fd")).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        // Gone again since it was listed, or nameless.
        let Ok(found) = fs::metadata(entry.path()) else { continue };
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !found.is_file() || found.nlink() == 0 || target.starts_with("/memfd:") {
            continue;
        }
        let found = (found.dev(), found.ino());
        if found == serial {
            outputs += 1;
            continue;
        }
        if inherited.contains(&found) {
            continue;
        }
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap_or_default();
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or_default();
        let flags = u32::from_str_radix(flags.trim(), 8).map_err(|e| format!("{e}: {info}"))?;
        same("the access mode of an open file", flags & 0o3, 0)?;
        if found != kernel && !images.contains(&found) {
            return Err(format!("QEMU has {} open", target.display()));
        }
        read.insert(found);
    }
    read.remove(&kernel);
    // A kernel may be an image, too.
    same("the open images", read, images.into_iter().filter(|i| *i != kernel).collect())?;
    // Its standard output, and the serial console's own.
    same("the descriptors of the serial console's output", outputs, 2)
}

/// What there is in the directory where QEMU runs.
fn check_sockets(directory: &Path, intended: &Intended) -> Result<(), String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let socket = entry.file_type().map_err(|e| e.to_string())?.is_socket();
        found.insert((entry.file_name().into_string().map_err(|n| format!("{n:?}"))?, socket));
    }
    let name = &intended.name;
    let mut wanted: BTreeSet<_> =
        ["supervisor", "control", "console"].map(|s| (format!("{name}.{s}.sock"), true)).into();
    wanted.insert(("serial".to_owned(), false));
    for index in 0..intended.shares.len() {
        wanted.insert((format!("{name}.virtiofs-{index}.sock"), true));
        // virtiofsd's own.
        let lock = (format!("{name}.virtiofs-{index}.sock.pid"), false);
        found.remove(&lock);
    }
    same("the directory where it runs", found, wanted)
}

#[test]
fn qemu_opens_what_is_intended() {
    let cases = number("MICROVM_SPECTRUM_QEMU_CASES", 200);
    let bench = Bench::new();
    let (accepted, with_shares, images) = (Cell::new(0), Cell::new(0), Cell::new(0));
    // A tap takes a privilege that this test does not have. Only accepted cases count.
    let result = runner(cases).run(&case(), |mut case| {
        case.providers.clear();
        let shares = case.shares.len();
        if with_shares.get() >= MAX_WITH_SHARES {
            case.shares.clear();
        }
        prop_assume!(bench.try_case(&case, LINK_PORTS).map_err(TestCaseError::fail)?);
        accepted.set(accepted.get() + 1);
        images.set(images.get() + case.images.len());
        if shares > 0 && !case.shares.is_empty() {
            with_shares.set(with_shares.get() + 1);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (accepted, with_shares, images) = (accepted.get(), with_shares.get(), images.get());
    println!("{accepted} directories with {images} images, {with_shares} of them with shares, went to QEMU");
    assert!(accepted >= cases, "only {accepted} of {cases} directories went to QEMU");
    assert!(with_shares >= (cases / 10).min(MAX_WITH_SHARES), "only {with_shares} had shares");
}

#[test]
fn qemu_takes_the_most_devices_that_are_accepted() {
    let bench = Bench::new();
    let image = |n: usize| (Name::new(format!("{n},\"a=b\".img")), directory::File::Plain);
    let link = directory::Link::to(&Name::new("a b,c=\"d\""), &Name::new("{}"));
    let case = Case {
        partition: Name::new("p, \"a=b\"[%]\\"),
        vm: Name::new("n".repeat(64)),
        kernel: directory::File::Plain,
        images: (0..definition::MAX_IMAGES).map(image).collect(),
        shares: (0..definition::MAX_SHARES)
            .map(|n| (Name::new(format!("{n},tag=\"x\"")), directory::Share::Link(link.clone())))
            .collect(),
        providers: BTreeSet::new(),
        strays: Vec::new(),
        wayland: false,
    };
    // PCI devices take ports, too, of which there are as many together.
    match bench.try_case(&case, planning::MAX_LINK_PORTS) {
        Ok(true) => {}
        other => panic!("{other:?}"),
    }
}
