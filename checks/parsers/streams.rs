// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a monitor says while it runs: it may be one that was taken over.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use microvm_spectrum::base::tool::Tool;
use microvm_spectrum::hypervisor;
use microvm_spectrum::hypervisor::running::{Attachment, Started};
use microvm_spectrum::plan::runtime::SocketNames;
use microvm_spectrum::plan::{HypervisorName, Plan};
use serde_json::Value;

use crate::documents::{in_memory, manifests};
use crate::mutation::{Bytes, bytes};
use crate::{Verdict, attack, ensure};

/// How long a monitor may take; none of these is silent without closing its socket.
const DEADLINE: Duration = Duration::from_secs(5);

fn plan(hypervisor: HypervisorName) -> Plan {
    let of_it = |plan: &Plan| plan.hypervisor == hypervisor;
    manifests()
        .iter()
        .map(Value::to_string)
        .find_map(|text| Plan::from_manifest(&text).ok().filter(of_it))
        .unwrap()
}

/// Waits for a monitor whose process lives.
fn wait_for_start(plan: &Plan, events: Option<File>) -> std::io::Result<Started> {
    let (alive, _ends_it) = std::io::pipe().unwrap();
    hypervisor::running(plan, DEADLINE).wait_for_start(alive.as_fd(), events)
}

/// What comes of a monitor's answer: its events, to their end.
fn follow(started: std::io::Result<Started>) -> Verdict {
    let Ok(mut started) = started else { return Ok(false) };
    let mut events = 0_u32;
    while let Some(Ok(_)) = started.events.next() {
        events += 1;
    }
    let _ = (started.power_button)();
    ensure(events < 10_000, || format!("{events} events of so few bytes"))?;
    Ok(true)
}

/// The directory where this process's relative socket names lead from now on.
fn enter() -> tempfile::TempDir {
    let directory = in_memory();
    std::env::set_current_dir(directory.path()).unwrap();
    directory
}

/// Serves each connection with the bytes that are sent here.
fn serve(path: &str) -> Sender<Vec<u8>> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, answers) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let mut before = None;
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            // It may have heard enough.
            let _ = stream.write_all(&answer).and_then(|()| stream.shutdown(Shutdown::Write));
            // Closed only now, since it still sends something.
            drop(before.replace(stream));
        }
    });
    sender
}

const QMP: [&str; 6] = [
    "{\"QMP\": {\"version\": {}}}\n{\"return\": {}}\n{\"event\": \"RESUME\"}\n",
    "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-shutdown\"}}\n",
    "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"event\": \"SHUTDOWN\", \
     \"data\": {\"reason\": \"guest-panic\"}}\n{\"return\": {}}\n",
    "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}\n",
    "{\"QMP\": {}}\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"link-a546-0\"}}\n{\"return\": {}}\n{\"return\": {}}\n",
    "{\"QMP\": {}}\n{\"return\": {}}\n{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'x' not found\"}}\n",
];

const EVENTS: [&str; 4] = [
    "{\"source\": \"vm\", \"event\": \"booting\"}\n\n{\"source\": \"vm\", \"event\": \"booted\"}\n\n",
    "{\"source\": \"vm\", \"event\": \"booted\"}\n\n{\"source\": \"vm\", \"event\": \"rebooted\"}\n\n",
    "{\"source\": \"vm\", \"event\": \"booted\"}\n\n{\"source\": \"guest\", \"event\": \"panic\"}\n\n",
    "{\"source\": \"vm\", \"event\": \"booted\"}{\"source\": \"vm\", \"event\": \"shutdown\"}{\"source\": \"vm\", \"event\": \"deleted\"}",
];

/// One test for all: there is one working directory.
#[test]
fn of_monitors() {
    let _directory = enter();
    qemu();
    cloud_hypervisor();
}

fn qemu() {
    let plan = plan(HypervisorName::Qemu);
    let sockets = SocketNames::new(&plan.name);
    let (supervisor, control) = (serve(&sockets.supervisor()), serve(&sockets.control()));
    attack(
        "QEMU's events",
        4,
        |random| bytes(random, &QMP),
        |given| {
            supervisor.send(given.0.clone()).unwrap();
            follow(wait_for_start(&plan, None))
        },
    );
    attack(
        "QEMU's answers",
        4,
        |random| (bytes(random, &QMP), random.below(3)),
        |(given, what)| {
            control.send(given.0.clone()).unwrap();
            Ok(use_control(&plan, *what))
        },
    );
    // A line without end.
    supervisor.send([&b"{\"QMP\": \""[..], &vec![b'x'; 2 << 20]].concat()).unwrap();
    let endless = wait_for_start(&plan, None);
    assert!(endless.is_err_and(|error| error.to_string().contains("without end")));
}

fn use_control(plan: &Plan, what: u64) -> bool {
    let attachment = Attachment { link: "a546".parse().unwrap(), port: 0 };
    let running = hypervisor::running(plan, DEADLINE);
    match what {
        0 => running.press_power_button().is_ok(),
        1 => running.plug(attachment).is_ok(),
        _ => running.unplug(attachment).is_ok(),
    }
}

fn cloud_hypervisor() {
    let mut plan = plan(HypervisorName::CloudHypervisor);
    let remote = std::env::current_dir().unwrap().join("ch-remote");
    plan.tools.insert(Tool::ChRemote, "/bin/true".into());
    attack(
        "Cloud Hypervisor's events",
        20,
        |random| bytes(random, &EVENTS),
        |given| {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(&given.0).unwrap();
            drop(writer);
            let pipe = File::from(std::os::fd::OwnedFd::from(reader));
            follow(wait_for_start(&plan, Some(pipe)))
        },
    );
    // Its answers, as its own client prints them.
    plan.tools.insert(Tool::ChRemote, remote.clone());
    let info = ["{\"config\": {\"console\": {\"file\": \"/dev/null\", \"mode\": \"Pty\"}}}"];
    let script = "#!/bin/sh\nexec cat answer\n";
    fs::write(&remote, script).unwrap();
    fs::set_permissions(&remote, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    attack(
        "Cloud Hypervisor's answers",
        40,
        |random| bytes(random, &info),
        |given: &Bytes| {
            fs::write("answer", &given.0).unwrap();
            Ok(hypervisor::running(&plan, DEADLINE).open_console().is_ok())
        },
    );
}
