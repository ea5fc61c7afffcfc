// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A client of the QEMU Machine Protocol.
//!
//! QMP is one JSON document a line (`docs/interop/qmp-spec.txt`). This client
//! passes over events that it does not know, so that it works with a newer QEMU;
//! the published libraries have a type for every event and fail on others.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::{Value, json};

use crate::hypervisor::running::timed_out;
use crate::hypervisor::socket::{connect, remaining};
use crate::system::poll;

/// How often to try a socket that exists, and to which nothing listens yet.
const LISTEN_INTERVAL: Duration = Duration::from_millis(1);
/// The longest line that is taken; QEMU's own are far shorter.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A connection with its greeting exchanged.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    events: VecDeque<Event>,
}

/// An event that QEMU sent.
#[derive(Debug)]
pub(super) struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// Its data, or null.
    pub data: Value,
}

impl Client {
    /// Connects to a VMM that is starting, waiting for its socket to appear, until the
    /// process with this pidfd has ended.
    pub fn connect_to_starting(vmm: BorrowedFd<'_>, path: &str, deadline: Instant) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let directory = Path::new(path).parent().filter(|it| !it.as_os_str().is_empty());
        inotify::add_watch(&watch, directory.unwrap_or(Path::new(".")), WatchFlags::CREATE)?;
        let stream = loop {
            let (error, wait) = match connect(path, deadline) {
                Ok(stream) => break stream,
                Err(error) if error.kind() == io::ErrorKind::NotFound => (error, remaining(deadline)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => (error, LISTEN_INTERVAL),
                Err(error) => return Err(error),
            };
            let [ended, _] = poll::are_readable([vmm, watch.as_fd()], Some(wait))?;
            if ended || Instant::now() >= deadline {
                return Err(error);
            }
            // Whatever was made, the socket is tried again.
            let _ = rustix::io::read(&watch, &mut [0; 4096]);
        };
        Self::greet(stream, deadline)
    }

    /// Connects to a VMM that runs. QEMU accepts one client at a time.
    pub fn connect(path: &str, deadline: Instant) -> io::Result<Self> {
        Self::greet(connect(path, deadline)?, deadline)
    }

    /// Receives the greeting.
    fn greet(stream: UnixStream, deadline: Instant) -> io::Result<Self> {
        let mut client = Self { stream, received: Vec::new(), events: VecDeque::new() };
        loop {
            let line = client.line(Some(deadline))?.ok_or_else(gone)?;
            if line.get("QMP").is_some() {
                break;
            }
        }
        client.execute("qmp_capabilities", deadline)?;
        Ok(client)
    }

    /// Executes a command without arguments and returns its result.
    pub fn execute(&mut self, command: &str, deadline: Instant) -> io::Result<Value> {
        send(&mut self.stream, command, deadline)?;
        self.result_of(command, deadline)
    }

    /// Executes a command and returns its result.
    pub fn execute_with(&mut self, command: &str, arguments: &Value, deadline: Instant) -> io::Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        self.stream.set_write_timeout(Some(remaining(deadline)))?;
        self.stream.write_all(format!("{message}\n").as_bytes())?;
        self.result_of(command, deadline)
    }

    /// Waits for an event, and passes over those before it.
    pub fn wait_for_event(&mut self, wanted: impl Fn(&Event) -> bool, deadline: Instant) -> io::Result<()> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(());
                }
            }
            let line = self.line(Some(deadline))?.ok_or_else(gone)?;
            self.keep_event(line);
        }
    }

    fn result_of(&mut self, command: &str, deadline: Instant) -> io::Result<Value> {
        loop {
            let mut line = self.line(Some(deadline))?.ok_or_else(gone)?;
            if let Some(result) = line.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = line.get("error") {
                let text = error.get("desc").and_then(Value::as_str).unwrap_or("it gave no reason");
                let kind = match error.get("class").and_then(Value::as_str) {
                    Some("DeviceNotFound") => io::ErrorKind::NotFound,
                    _ => io::ErrorKind::Other,
                };
                return Err(io::Error::new(kind, format!("QEMU refused {command}: {text}")));
            }
            self.keep_event(line);
        }
    }

    /// The next event; `None` when QEMU has closed the connection.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.line(None)? {
                Some(line) => self.keep_event(line),
                None => return Ok(None),
            }
        }
    }

    /// A second handle for sending, see [`send`].
    pub fn writer(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    fn keep_event(&mut self, mut line: Value) {
        if let Some(name) = line.get("event").and_then(Value::as_str) {
            let name = name.to_owned();
            let data = line.get_mut("data").map(Value::take).unwrap_or_default();
            self.events.push_back(Event { name, data });
        }
    }

    /// The next line that is JSON; `None` at the end of the stream.
    fn line(&mut self, deadline: Option<Instant>) -> io::Result<Option<Value>> {
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                if let Ok(value) = serde_json::from_slice(&line) {
                    return Ok(Some(value));
                }
                continue;
            }
            if self.received.len() > MAX_LINE_BYTES {
                return Err(io::Error::other("QEMU sent a line without end"));
            }
            self.stream.set_read_timeout(deadline.map(remaining))?;
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.received.extend(buffer.iter().take(length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(timed_out("QEMU's control socket did not answer in time"));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends a command without arguments, and does not wait for its result.
pub(super) fn send(stream: &mut UnixStream, command: &str, deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(remaining(deadline)))?;
    stream.write_all(format!("{}\n", json!({ "execute": command })).as_bytes())
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU closed its control socket")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead as _;
    use std::os::unix::net::UnixListener;

    /// A QEMU that answers each line it gets with the next of `answers`.
    fn serve(
        answers: &'static [&'static str],
    ) -> (tempfile::TempDir, String, std::thread::JoinHandle<Vec<String>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
            let mut got = Vec::new();
            for (index, answer) in answers.iter().enumerate() {
                if index > 0 {
                    got.push(lines.next().unwrap().unwrap());
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
            got
        });
        (dir, path, thread)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(500)
    }

    #[test]
    fn keeps_events_that_come_between() {
        let (_dir, path, thread) = serve(&[
            "{\"QMP\": {}}\r\n",
            "{\"event\": \"RESUME\"}\n{\"return\": {}}\n",
            "not json\n{\"event\": \"SHUTDOWN\", \"data\": {\"reason\": \"guest-panic\"}}\n{\"return\": 7}\n",
        ]);
        let mut client = Client::connect(&path, soon()).unwrap();
        assert_eq!(client.execute("query", soon()).unwrap(), 7);
        assert_eq!(client.next_event().unwrap().unwrap().name, "RESUME");
        let event = client.next_event().unwrap().unwrap();
        assert_eq!((event.name.as_str(), &event.data["reason"]), ("SHUTDOWN", &json!("guest-panic")));
        assert!(client.next_event().unwrap().is_none());
        assert_eq!(thread.join().unwrap(), [r#"{"execute":"qmp_capabilities"}"#, r#"{"execute":"query"}"#]);
    }

    #[test]
    fn gives_up_at_the_deadline() {
        let (_dir, path, _thread) = serve(&["{\"QMP\"", ""]);
        let error = Client::connect(&path, soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let begun = Instant::now();
        let (running, ended) = std::io::pipe().unwrap();
        let running_vmm = |path: &str, deadline| Client::connect_to_starting(running.as_fd(), path, deadline);
        assert_eq!(Client::connect("/nonexistent", soon()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(running_vmm("/nonexistent", soon()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(begun.elapsed() >= Duration::from_millis(400), "the second one waits");
        drop(ended);
        let never = Instant::now() + Duration::from_secs(3600);
        assert_eq!(running_vmm("/nonexistent", never).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_socket_that_appears_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp").to_str().unwrap().to_owned();
        let (running, _ended) = std::io::pipe().unwrap();
        let never = Instant::now() + Duration::from_secs(3600);
        let connecting = std::thread::spawn({
            let path = path.clone();
            move || Client::connect_to_starting(running.as_fd(), &path, never).map(drop)
        });
        // Something else comes first, and then a socket to which nothing listens at first.
        std::fs::write(dir.path().join("other"), "").unwrap();
        let listener =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .unwrap();
        let address = rustix::net::SocketAddrUnix::new(path.as_str()).unwrap();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let (mut stream, _) = UnixListener::from(listener).accept().unwrap();
        stream.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n").unwrap();
        connecting.join().unwrap().unwrap();
    }

    #[test]
    fn says_what_was_refused() {
        let (_dir, path, _thread) =
            serve(&["{\"QMP\": {}}\n", "{\"return\": {}}\n", "{\"error\": {\"desc\": \"no\"}}\n"]);
        let error = Client::connect(&path, soon()).unwrap().execute("stop", soon()).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused stop: no");
    }
}
