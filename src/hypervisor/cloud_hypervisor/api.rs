// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Cloud Hypervisor's API: HTTP/1.1 with JSON over a Unix socket (`docs/api.md`;
//! `vmm/src/api/openapi/cloud-hypervisor.yaml`).
//!
//! One thread of the VMM answers all calls in the order in which they come, after it has
//! done what they ask for. It passes over a call whose client has gone before its turn.
//! So the answer to a call says what came of those before it that got no answer in time.
//!
//! The VMM may have been taken over: an answer has a limit, and the deadline of a call is
//! one for all of it, however slowly the bytes come.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::Value;

use crate::base::printable::printable;
use crate::base::shortened::shortened;
use crate::hypervisor::running::timed_out;
use crate::hypervisor::socket::{connect, remaining};

/// The longest answer that is taken; `vm.info` of a VM with many devices has some 10,000.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The longest status line with headers, which is read again for each part that comes.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most headers of an answer; the VMM sends four.
const MAX_HEADERS: usize = 32;
/// The first message of a refusal in many words, which says no more than that it is one
/// (`vmm/src/api/http/mod.rs`, `HttpError`).
const REFUSAL: &str = "Error from API";

/// The API at a socket.
#[derive(Debug, Clone)]
pub(super) struct Api {
    socket: String,
}

impl Api {
    pub fn new(socket: String) -> Self {
        Self { socket }
    }

    /// Asks for something.
    pub fn get(&self, command: &str, deadline: Instant) -> io::Result<Value> {
        Ok(serde_json::from_slice(&self.call("GET", command, "", deadline)?)?)
    }

    /// Has the VMM do something.
    pub fn put(&self, command: &str, argument: Option<&Value>, deadline: Instant) -> io::Result<()> {
        let body = argument.map(ToString::to_string).unwrap_or_default();
        self.call("PUT", command, &body, deadline).map(drop)
    }

    fn call(&self, method: &str, command: &str, body: &str, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut stream = connect(&self.socket, deadline)?;
        stream.set_write_timeout(Some(remaining(deadline)))?;
        // A length of 0 would be a body for the VMM.
        let length = match body.len() {
            0 => String::new(),
            length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
        };
        let request = format!("{method} /api/v1/{command} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}");
        let exchanged = stream.write_all(request.as_bytes()).and_then(|()| answer(&mut stream, deadline));
        let (status, body) = exchanged.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                timed_out(&format!("Cloud Hypervisor did not answer {command} in time"))
            }
            _ => error,
        })?;
        if (200..300).contains(&status) { Ok(body) } else { Err(refused(command, status, &body)) }
    }
}

/// The status and the body of an answer.
fn answer(stream: &mut UnixStream, deadline: Instant) -> io::Result<(u16, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        let head = head(&received)?;
        if let Some((status, begin, end)) = head
            && let Some(body) = received.get(begin..end)
        {
            return Ok((status, body.to_vec()));
        }
        if received.len() > if head.is_none() { MAX_HEAD_BYTES } else { MAX_ANSWER_BYTES + MAX_HEAD_BYTES } {
            return Err(io::Error::other("Cloud Hypervisor sent an answer without end"));
        }
        // Also where something comes all the time.
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        stream.set_read_timeout(Some(remaining(deadline)))?;
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => {
                let why = "Cloud Hypervisor closed its control socket";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
            }
            Ok(length) => received.extend(buffer.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The status of an answer, and where its body begins and ends; nothing while the headers
/// are not complete.
fn head(received: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let no_http = |why: String| io::Error::other(format!("Cloud Hypervisor's answer is not HTTP: {why}"));
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let begin = match response.parse(received).map_err(|error| no_http(error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(begin) => begin,
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Some(0), |header| str::from_utf8(header.value).ok()?.trim().parse().ok());
    let length = length.filter(|length| *length <= MAX_ANSWER_BYTES);
    let length = length.ok_or_else(|| no_http("it has no usable length".to_owned()))?;
    Ok(Some((response.code.unwrap_or_default(), begin, begin + length)))
}

/// The error of an answer that is a no. Its body is the list of what went wrong, from the
/// call down to the system's error.
fn refused(command: &str, status: u16, body: &[u8]) -> io::Error {
    let mut chain: Vec<String> = match serde_json::from_slice(body) {
        Ok(chain) => chain,
        Err(_) => vec![String::from_utf8_lossy(body).into_owned()],
    };
    chain.retain(|message| message != REFUSAL && !message.is_empty());
    let said = match chain.as_slice() {
        [] => format!("status {status}"),
        [only] => only.clone(),
        [first, .., last] => format!("{first}: {last}"),
    };
    let kind = if status == 404 { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
    let said = printable(shortened(said.as_ref()));
    io::Error::new(kind, format!("Cloud Hypervisor refused {command}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    /// An API that answers its one call with these bytes, each after the given pause, and
    /// keeps the connection open.
    fn api(parts: Vec<(Duration, Vec<u8>)>) -> (tempfile::TempDir, Api, std::thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            for (pause, bytes) in parts {
                std::thread::sleep(pause);
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            // Until the client has gone.
            let _ = stream.read(&mut [0; 16]);
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        (dir, Api::new(socket), thread)
    }

    fn at_once(text: &str) -> Vec<(Duration, Vec<u8>)> {
        vec![(Duration::ZERO, text.as_bytes().to_vec())]
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn exchanges_json() {
        let (_dir, api, thread) = self::api(
            b"HTTP/1.1 200 \r\nServer: x\r\nContent-Length: 9\r\n\r\n{\"a\": 12}"
                .chunks(5)
                .map(|bytes| (Duration::from_millis(2), bytes.to_vec()))
                .collect(),
        );
        assert_eq!(api.get("vm.info", later()).unwrap()["a"], 12);
        assert_eq!(thread.join().unwrap(), "GET /api/v1/vm.info HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (_dir, api, thread) = self::api(at_once("HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n"));
        api.put("vm.remove-device", Some(&serde_json::json!({"id": "x"})), later()).unwrap();
        assert!(thread.join().unwrap().ends_with("Content-Length: 10\r\n\r\n{\"id\":\"x\"}"));
    }

    #[test]
    fn says_first_and_last_of_what_went_wrong() {
        let chain = r#"["Error from API","The network device could not be added","Cannot open the tap","Device or resource busy"]"#;
        for (body, said) in [
            (chain, "The network device could not be added: Device or resource busy"),
            ("plain\u{1b} text", "plain\\u{1b} text"),
            ("[]", "status 500"),
            ("", "status 500"),
        ] {
            let text =
                format!("HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let (_dir, api, _thread) = self::api(at_once(&text));
            let error = api.put("vm.add-net", None, later()).unwrap_err();
            assert_eq!(error.to_string(), format!("Cloud Hypervisor refused vm.add-net: {said}"));
        }
    }

    #[test]
    fn gives_up_on_a_silent_and_on_a_dripping_api() {
        let drip = std::iter::repeat_n((Duration::from_millis(20), b"x".to_vec()), 10_000);
        let head = at_once("HTTP/1.1 200 \r\nContent-Length: 100000\r\n\r\n");
        for parts in [Vec::new(), head.into_iter().chain(drip).collect()] {
            let (_dir, api, _thread) = self::api(parts);
            let begun = Instant::now();
            let error = api.get("vmm.ping", begun + Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            assert_eq!(error.to_string(), "Cloud Hypervisor did not answer vmm.ping in time");
        }
    }

    #[test]
    fn takes_nothing_from_an_api_that_lies() {
        let endless = vec![(Duration::ZERO, [b"HTTP/1.1 200 \r\nA: ", &[b'x'; 2 << 20][..]].concat())];
        for (parts, said) in [
            (endless, "answer without end"),
            (at_once("220 mail.example.org ESMTP\r\n\r\n"), "is not HTTP"),
            (at_once("HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n"), "no usable length"),
            (at_once("HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n"), "no usable length"),
            (at_once(&format!("HTTP/1.1 200 \r\n{}\r\n", "A: b\r\n".repeat(40))), "is not HTTP"),
            (at_once("HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n{"), "EOF while parsing"),
        ] {
            let (_dir, api, _thread) = self::api(parts);
            let error = api.get("vm.info", later()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
