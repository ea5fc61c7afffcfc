// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What a monitor says while it runs: it may be one that was taken over.

use std::fs::File;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    hypervisor::running(plan, DEADLINE).wait_for_start(alive.as_fd(), events, &mut || false)
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

/// Serves each connection with the bytes that are here at that time.
fn serve_always(path: &str) -> Arc<Mutex<Vec<u8>>> {
    // The other monitor's, of the VM with the same name.
    let _ = std::fs::remove_file(path);
    let (listener, answer) = (UnixListener::bind(path).unwrap(), Arc::default());
    let current = Arc::<Mutex<Vec<u8>>>::clone(&answer);
    std::thread::spawn(move || {
        let mut before = None;
        for stream in listener.incoming() {
            let (mut stream, bytes) = (stream.unwrap(), current.lock().unwrap().clone());
            let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
            drop(before.replace(stream));
        }
    });
    answer
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

const ANSWERS: [&str; 6] = [
    "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Length: 56\r\n\r\n\
     {\"config\": {\"console\": {\"file\": \"/dev/null\", \"a\": 1}}}",
    "HTTP/1.1 200 \r\nContent-Length: 48\r\n\r\n{\"config\": {\"net\": [{\"id\": \"link-a546-0\"}, 1, {}]}}",
    "HTTP/1.1 200 \r\nContent-Length: 36\r\n\r\n{\"device_tree\": {\"link-a546-0\": {}}}\n",
    "HTTP/1.1 204 \r\n\r\n",
    "HTTP/1.1 500 \r\nContent-Length: 31\r\n\r\n[\"Error from API\", \"one\", \"two\"]",
    "HTTP/1.1 503\r\nServer: Firecracker API\r\nContent-Length: 2\r\n\r\n{}",
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
    // An earlier call to plug in an interface came late, with its device, or without; and one
    // whose interface is another's.
    let (duplicate, done) = ("{\"error\": {\"desc\": \"Duplicate ID\"}}\n", "{\"return\": {}}\n");
    for (devices, then, is_plugged) in [
        ("[{\"name\": \"type\"}, {\"name\": \"link-a546-0\"}]", String::new(), true),
        ("[{\"name\": \"link-b547-0\"}]", done.repeat(3), true),
        ("[]", duplicate.to_owned(), false),
    ] {
        let answers = format!("{{\"QMP\": {{}}}}\n{done}{duplicate}{{\"return\": {devices}}}\n{then}");
        control.send(answers.into_bytes()).unwrap();
        assert_eq!(use_control(&plan, 1), is_plugged, "{devices}");
    }
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
        // The guest has no time, the monitor has some.
        _ => hypervisor::running(plan, Duration::ZERO).unplug(attachment).is_ok(),
    }
}

fn cloud_hypervisor() {
    let plan = plan(HypervisorName::CloudHypervisor);
    let answer = serve_always(&SocketNames::new(&plan.name).control());
    answer.lock().unwrap().clone_from(&Vec::from("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}"));
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
    attack(
        "Cloud Hypervisor's answers",
        4,
        |random| (bytes(random, &ANSWERS), random.below(4)),
        |(given, what): &(Bytes, u64)| {
            answer.lock().unwrap().clone_from(&given.0);
            Ok(match what {
                0 => hypervisor::running(&plan, DEADLINE).open_console().is_ok(),
                what => use_control(&plan, what - 1),
            })
        },
    );
    // An answer without end.
    *answer.lock().unwrap() = [&b"HTTP/1.1 200 \r\nA: "[..], &vec![b'x'; 2 << 20]].concat();
    let endless = hypervisor::running(&plan, DEADLINE).press_power_button();
    assert!(endless.is_err_and(|error| error.to_string().contains("without end")));
}
