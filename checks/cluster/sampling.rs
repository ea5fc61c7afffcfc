// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Where VMs run, as seen from outside of the hosts: by the processes of their monitors.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::nodes::VMS;

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// A monitor's process: the VM, and the namespace of process ids that it is in.
pub fn monitors() -> Vec<(&'static str, PathBuf)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let found = processes.filter_map(|process| {
        let line = std::fs::read(process.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        if !words.next()?.contains("qemu-system") {
            return None;
        }
        let name = words.skip_while(|word| *word != "-name").nth(1)?;
        let vm = VMS
            .into_iter()
            .find(|vm| name == *vm || name.split(',').any(|part| part == format!("guest={vm}")))?;
        Some((vm, std::fs::read_link(process.join("ns/pid")).ok()?))
    });
    found.collect()
}

/// Looks for VMs all the time.
pub struct Sampler {
    end: Arc<AtomicBool>,
    twice: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<usize>,
}

impl Sampler {
    pub fn start() -> Self {
        let (end, twice) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, found) = (end.clone(), twice.clone());
        let thread = std::thread::spawn(move || {
            let mut looks = 0;
            while !ends.load(Ordering::Relaxed) {
                let mut numbers = BTreeMap::new();
                for (vm, place) in monitors() {
                    numbers.entry(vm).or_insert_with(Vec::new).push(place);
                }
                let several = numbers.iter().filter(|(_, places)| places.len() > 1);
                found.lock().unwrap().extend(several.map(|(vm, places)| format!("{vm}: {places:?}")));
                looks += 1;
                std::thread::sleep(INTERVAL);
            }
            looks
        });
        Self { end, twice, thread }
    }

    /// How often it has looked; no VM may have run twice.
    pub fn end(self) -> usize {
        self.end.store(true, Ordering::Relaxed);
        let looks = self.thread.join().unwrap();
        let twice = self.twice.lock().unwrap();
        assert!(twice.is_empty(), "VMs ran twice: {twice:?}");
        looks
    }
}
