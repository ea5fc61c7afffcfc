// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The events that Cloud Hypervisor writes, JSON objects with an empty line between.
//!
//! When the guest ends, the VM stops and the VMM stays (`--no-shutdown`): one
//! `vm`/`shutdown`. A crash of a virtual processor, and a signal, stop both:
//! `vm`/`shutdown`, and `vm`/`deleted` when the guest's memory is freed, which
//! takes seconds if there is much. The thread that frees it also serves the API
//! (`vmm/src/lib.rs`, `control_loop`), and does not return to the API: so a VMM
//! that still answers after `vm`/`shutdown` is one whose guest powered off.
//!
//! A reset is `vm`/`rebooting`, in which the VMM opens everything again, and
//! `vm`/`rebooted`. It ends when it cannot: when the tap of a link is gone that it was not
//! asked in time to unplug, say.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hypervisor::running::{VmmEvent, timed_out};
use crate::system::poll;

/// How long to wait for an event before asking the API again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// The longest event that is taken; real ones have some hundred bytes.
const MAX_EVENT_BYTES: usize = 1 << 16;

/// The pipe that the events come through.
pub(super) struct EventPipe {
    pipe: File,
    received: Vec<u8>,
    answers: Box<dyn Fn() -> bool + Send>,
}

impl EventPipe {
    /// `answers` asks whether the VMM's API answers, and may take its time.
    pub fn new(pipe: File, answers: impl Fn() -> bool + Send + 'static) -> Self {
        Self { pipe, received: Vec::new(), answers: Box::new(answers) }
    }

    /// Waits for `vm`/`booted`.
    pub fn wait_for_boot(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            match self.event(Some(deadline))? {
                Some((source, name)) if source == "vm" && name == "booted" => return Ok(()),
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "Cloud Hypervisor ended")),
            }
        }
    }

    /// Source and name of the next event; `None` at the end of the stream.
    fn event(&mut self, deadline: Option<Instant>) -> io::Result<Option<(String, String)>> {
        loop {
            if let Some(event) = self.take_received()? {
                return Ok(Some(event));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some() && !poll::is_readable(&self.pipe, left)? {
                return Err(timed_out("Cloud Hypervisor did not report in time that the VM runs"));
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.received.extend(buffer.iter().take(length)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the first event out of what was received, if it is complete.
    fn take_received(&mut self) -> io::Result<Option<(String, String)>> {
        let mut documents = serde_json::Deserializer::from_slice(&self.received).into_iter::<Value>();
        match documents.next() {
            Some(Ok(value)) => {
                let end = documents.byte_offset();
                self.received.drain(..end);
                let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                Ok(Some((text("source"), text("event"))))
            }
            Some(Err(error)) if !error.is_eof() => {
                Err(io::Error::other(format!("Cloud Hypervisor's events are not JSON: {error}")))
            }
            _ if self.received.len() > MAX_EVENT_BYTES => {
                Err(io::Error::other("Cloud Hypervisor sent an event without end"))
            }
            _ => Ok(None),
        }
    }

    /// What `vm`/`shutdown` means; whichever comes first decides: an answer of
    /// the API, or a further event or the end of the stream.
    fn after_shutdown(&mut self) -> io::Result<VmmEvent> {
        loop {
            if (self.answers)() {
                return Ok(VmmEvent::PoweredOff);
            }
            match self.event(Some(Instant::now() + RETRY_INTERVAL)) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(VmmEvent::Terminated),
            }
        }
    }

    /// What came of `vm`/`rebooting`.
    fn after_rebooting(&mut self) -> io::Result<VmmEvent> {
        while let Some((source, name)) = self.event(None)? {
            if source == "vm" && name == "rebooted" {
                return Ok(VmmEvent::Reset);
            }
        }
        Ok(VmmEvent::EndedByReset)
    }

    /// The next event that matters; `None` at the end of the stream.
    pub fn next(&mut self) -> io::Result<Option<VmmEvent>> {
        while let Some((source, name)) = self.event(None)? {
            match (source.as_str(), name.as_str()) {
                ("vm", "rebooting") => return self.after_rebooting().map(Some),
                ("guest", "panic") => return Ok(Some(VmmEvent::Panicked)),
                ("vm", "shutdown") => return self.after_shutdown().map(Some),
                _ => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn pipe() -> (EventPipe, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (EventPipe::new(read.into(), || false), write.into())
    }

    fn event(source: &str, name: &str) -> String {
        format!(
            "{{\"timestamp\":{{\"secs\":0,\"nanos\":1}},\"source\":\"{source}\",\"event\":\"{name}\",\"properties\":null}}\n\n"
        )
    }

    #[test]
    fn tells_the_guests_end_from_a_crash() {
        let (mut events, mut vmm) = pipe();
        write!(vmm, "{}{}", event("vmm", "starting"), event("vm", "booted")).unwrap();
        events.wait_for_boot(Instant::now() + Duration::from_secs(1)).unwrap();
        write!(vmm, "{}{}", event("vm", "rebooting"), event("vm", "rebooted")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Reset));
        write!(vmm, "{}", event("vm", "shutdown")).unwrap();
        events.answers = Box::new(|| true);
        assert_eq!(events.next().unwrap(), Some(VmmEvent::PoweredOff));
        events.answers = Box::new(|| false);
        write!(vmm, "{}{}", event("vm", "shutdown"), event("vm", "deleted")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Terminated));
        write!(vmm, "{}", event("guest", "panic")).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Panicked));
        write!(vmm, "{}", event("vm", "rebooting")).unwrap();
        drop(vmm);
        assert_eq!(events.next().unwrap(), Some(VmmEvent::EndedByReset));
        assert_eq!(events.next().unwrap(), None);
    }

    #[test]
    fn an_event_may_come_in_pieces() {
        let (mut events, mut vmm) = pipe();
        let text = event("guest", "panic");
        let (first, second) = text.split_at(20);
        vmm.write_all(first.as_bytes()).unwrap();
        let error = events.wait_for_boot(Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        vmm.write_all(second.as_bytes()).unwrap();
        assert_eq!(events.next().unwrap(), Some(VmmEvent::Panicked));
    }
}
