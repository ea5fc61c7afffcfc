// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A stand-in of the API that does what version 53 does, as late as a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use super::*;

/// What the stand-in has, and how it behaves.
#[derive(Default)]
struct State {
    /// The taps of the devices in `config`, by their ids.
    config: BTreeMap<String, String>,
    /// The taps of the devices that the guest sees.
    tree: BTreeMap<String, String>,
    /// Whether the guest releases what is unplugged.
    guest_holds: bool,
    /// How long each change takes.
    slow: Duration,
    /// The changes that it was asked for.
    asked: Vec<String>,
}

struct StandIn {
    _dir: tempfile::TempDir,
    socket: String,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        // One thread serves one call after another.
        std::thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap(), &served)));
        Self { _dir: dir, socket, state }
    }

    fn running(&self, timeout: Duration) -> Running {
        Running { api: Api::new(self.socket.clone()), deadline: Instant::now() + timeout }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map(Result::unwrap);
    let Some(first) = lines.next() else { return };
    let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    let command = first.split(' ').nth(1).unwrap().strip_prefix("/api/v1/").unwrap().to_owned();
    let slow = state.lock().unwrap().slow;
    if command != "vm.info" {
        std::thread::sleep(slow);
    }
    let mut state = state.lock().unwrap();
    let no = |why: &str| (500, json!(["Error from API", "The call failed", why]).to_string());
    let (status, body) = match command.as_str() {
        "vm.info" => {
            let net: Vec<_> = state.config.iter().map(|(id, tap)| json!({ "id": id, "tap": tap })).collect();
            (200, json!({ "config": { "net": net }, "device_tree": state.tree }).to_string())
        }
        "vm.add-net" => {
            state.asked.push(format!("add {}", text("id")));
            if state.tree.contains_key(&text("id")) {
                no("Identifier is not unique")
            } else if state.tree.values().any(|tap| *tap == text("tap")) {
                no("Device or resource busy (os error 16)")
            } else {
                state.config.insert(text("id"), text("tap"));
                state.tree.insert(text("id"), text("tap"));
                (200, "{}".to_owned())
            }
        }
        "vm.remove-device" => {
            state.asked.push(format!("remove {}", text("id")));
            if !state.tree.contains_key(&text("id")) || state.config.remove(&text("id")).is_none() {
                no("Unknown device id")
            } else {
                if !state.guest_holds {
                    state.tree.remove(&text("id"));
                }
                (204, String::new())
            }
        }
        _ => (404, String::new()),
    };
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    // The client may have gone.
    let _ = write!(stream, "HTTP/1.1 {status} \r\nConnection: keep-alive\r\n{length}\r\n{body}");
}

const LONG: Duration = Duration::from_secs(30);

fn attachment(port: usize) -> Attachment {
    Attachment { link: "a546".parse().unwrap(), port }
}

#[test]
fn an_interface_is_plugged_in_once_however_late_the_answer() {
    let vmm = StandIn::new();
    vmm.set(|state| state.slow = Duration::from_millis(500));
    let error = vmm.running(Duration::from_millis(100)).plug(attachment(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    // The answer to the next call comes after what the first has done.
    vmm.running(LONG).plug(attachment(0)).unwrap();
    assert_eq!(vmm.asked(), ["add link-a546-0"]);
    // Another id would be a second device on the same tap, which the VMM refuses.
    let error = vmm.running(LONG).plug(attachment(1)).unwrap_err().to_string();
    assert_eq!(
        error,
        "Cloud Hypervisor refused vm.add-net: The call failed: Device or resource busy (os error 16)"
    );
}

#[test]
fn an_interface_is_unplugged_however_late_the_answer() {
    let vmm = StandIn::new();
    vmm.running(LONG).plug(attachment(0)).unwrap();
    vmm.set(|state| state.slow = Duration::from_millis(300));
    // The time is the guest's, not the VMM's.
    assert_eq!(vmm.running(Duration::from_millis(10)).unplug(attachment(0)).unwrap(), Unplugged::Free);
    assert_eq!(vmm.asked(), ["add link-a546-0", "remove link-a546-0"]);
    assert_eq!(vmm.running(LONG).unplug(attachment(0)).unwrap(), Unplugged::Free, "it was none");
    assert_eq!(vmm.asked(), [""; 0]);
}

#[test]
fn what_a_guest_holds_is_lost_until_it_releases_it() {
    let vmm = StandIn::new();
    vmm.running(LONG).plug(attachment(0)).unwrap();
    vmm.set(|state| state.guest_holds = true);
    assert_eq!(vmm.running(Duration::from_millis(50)).unplug(attachment(0)).unwrap(), Unplugged::Lost);
    assert_eq!(vmm.running(Duration::ZERO).unplug(attachment(0)).unwrap(), Unplugged::Lost);
    // It is asked for once, so that the VM's next reset does not open the tap again.
    assert_eq!(vmm.asked(), ["add link-a546-0", "remove link-a546-0"]);
    let error = vmm.running(LONG).plug(attachment(0)).unwrap_err().to_string();
    assert!(error.contains("has not released"), "{error}");
    vmm.set(|state| state.tree.clear());
    assert_eq!(vmm.running(Duration::ZERO).unplug(attachment(0)).unwrap(), Unplugged::Free);
    vmm.running(LONG).plug(attachment(0)).unwrap();
}

#[test]
fn what_a_guest_has_ejected_does_not_keep_its_link_from_a_new_interface() {
    let vmm = StandIn::new();
    vmm.running(LONG).plug(attachment(0)).unwrap();
    vmm.set(|state| state.tree.clear());
    for _ in 0..2 {
        assert_eq!(vmm.running(LONG).unplug(attachment(0)).unwrap(), Unplugged::Lost);
    }
    vmm.running(LONG).plug(attachment(1)).unwrap();
    assert_eq!(vmm.asked(), ["add link-a546-0", "add link-a546-1"]);
}
