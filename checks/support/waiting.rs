// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Waiting for what other processes do and print, but not for ever.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `done` gives something, or fails saying what did not happen.
#[track_caller]
pub fn wait_for<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    wait_or_explain(what, done, String::new)
}

/// Like [`wait_for`], with an explanation of how things are instead.
#[track_caller]
pub fn wait_or_explain<T>(
    what: &str,
    mut done: impl FnMut() -> Option<T>,
    explain: impl FnOnce() -> String,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        if Instant::now() >= deadline {
            panic!("did not happen in time: {what}\n{}", explain());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a thread has read until now.
#[derive(Clone, Default)]
pub struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
}

impl Collected {
    /// Collects what comes from a pipe until it is closed.
    pub fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let collected = Self::default();
        let all = collected.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                all.add(&buffer[..length]);
            }
            all.end();
        });
        collected
    }

    pub fn add(&self, bytes: &[u8]) {
        self.bytes.lock().unwrap().extend(bytes);
    }

    /// No more will come.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// All of it, after the pipe was closed.
    #[track_caller]
    pub fn all(&self) -> String {
        wait_for("the end of the output", || self.ended.load(Ordering::Acquire).then_some(()));
        self.text()
    }

    /// Waits until this is in it.
    #[track_caller]
    pub fn wait_for(&self, wanted: &str) {
        self.wait_for_times(wanted, 1);
    }

    /// Waits until this is in it so many times.
    #[track_caller]
    pub fn wait_for_times(&self, wanted: &str, times: usize) {
        wait_or_explain(
            &format!("{times} × {wanted:?}"),
            || (self.text().matches(wanted).count() >= times).then_some(()),
            || self.text(),
        );
    }
}
