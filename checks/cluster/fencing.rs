// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! What fences hosts of the test: an agent within them asks for it, and a thread outside
//! kills the machine, as a power switch would.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::nodes::NODES;
use crate::support::waiting::wait_for;

/// Where the agent asks, in a machine.
pub const REQUESTS: &str = "/run/fencing";

/// The agent. It reads its options from standard input, as those of Pacemaker do.
pub const AGENT: &str = r#"#!/bin/sh
action=reboot
node=
while [ "$#" -gt 1 ]; do
	[ "$1" != -o ] || action=$2
	shift
done
[ "$action" = metadata ] || while read -r line; do
	case $line in
	action=*) action=${line#*=} ;;
	nodename=* | port=*) node=${line#*=} ;;
	esac
done
case $action in
metadata)
	cat <<-'XML'
		<?xml version="1.0"?>
		<resource-agent name="fence_machine" shortdesc="Kills a machine of the test">
		<longdesc>Kills a machine of the test.</longdesc>
		<parameters>
		<parameter name="action" required="1"><content type="string" default="reboot"/></parameter>
		<parameter name="port"><content type="string"/></parameter>
		</parameters>
		<actions>
		<action name="on"/><action name="off"/><action name="reboot"/>
		<action name="status"/><action name="monitor"/><action name="list"/><action name="metadata"/>
		</actions>
		</resource-agent>
	XML
	;;
off | reboot)
	: >"/run/fencing/$node.request"
	until [ -e "/run/fencing/$node.done" ]; do sleep 0.05; done
	rm "/run/fencing/$node.done"
	;;
esac
"#;

/// Kills the machines that are to be fenced.
pub struct Fencing {
    /// The first process of each machine.
    machines: Arc<Mutex<BTreeMap<&'static str, u32>>>,
    fenced: Arc<Mutex<Vec<&'static str>>>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Kills a machine, and waits for its end.
pub fn kill(pid: u32) {
    let process = Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = kill_process(process, Signal::KILL);
    let root = format!("/proc/{pid}/root/.");
    wait_for("the end of a machine", || (!Path::new(&root).exists()).then_some(()));
}

impl Fencing {
    pub fn start() -> Self {
        let machines = Arc::new(Mutex::new(BTreeMap::<&'static str, u32>::new()));
        let (fenced, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (all, killed, ends) = (machines.clone(), fenced.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let now = all.lock().unwrap().clone();
                for asks in now.values() {
                    let place = format!("/proc/{asks}/root{REQUESTS}");
                    for node in NODES {
                        let request = format!("{place}/{node}.request");
                        if std::fs::remove_file(request).is_err() {
                            continue;
                        }
                        if let Some(pid) = now.get(node) {
                            kill(*pid);
                        }
                        killed.lock().unwrap().push(node);
                        let _ = std::fs::write(format!("{place}/{node}.done"), "");
                    }
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { machines, fenced, end, thread }
    }

    pub fn add(&self, node: &'static str, pid: u32) {
        self.machines.lock().unwrap().insert(node, pid);
    }

    pub fn remove(&self, node: &'static str) {
        self.machines.lock().unwrap().remove(node);
    }

    pub fn fenced(&self) -> Vec<&'static str> {
        self.fenced.lock().unwrap().clone()
    }

    pub fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
