// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Plugging in the links of a VM's clients, as they come and go.
//!
//! A thread of its own watches the [records](crate::link::records) that root
//! writes, and brings the running VMM into line with them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::output::say;
use crate::hypervisor::{Hypervisor, Unplugged};
use crate::link::id::LinkId;
use crate::link::records::{self, Stamp};
use crate::plan::Plan;
use crate::plan::runtime::SocketNames;

/// How long a VMM may take to plug an interface in.
const PLUG_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guest may take to let go of an interface.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to ask for one port that was lost.
const RECLAIM_TIMEOUT: Duration = Duration::from_millis(100);
/// When what failed is tried again, and whether there are records at all.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The links of a running VM's clients.
pub(super) struct Links {
    plan: Plan,
    sockets: SocketNames,
    hypervisor: &'static dyn Hypervisor,
    plugged: BTreeMap<LinkId, Plugged>,
    /// The ports that guests have not let go of in time, with their links.
    lost: BTreeMap<usize, LinkId>,
    /// The last number given, where each interface gets a new one.
    next_port: usize,
    /// What was complained of already.
    complaints: BTreeSet<LinkId>,
}

/// An interface that is plugged in.
struct Plugged {
    port: usize,
    stamp: Stamp,
}

impl Links {
    pub fn new(plan: &Plan, sockets: &SocketNames, hypervisor: &'static dyn Hypervisor) -> Self {
        Self {
            plan: plan.clone(),
            sockets: sockets.clone(),
            hypervisor,
            plugged: BTreeMap::new(),
            lost: BTreeMap::new(),
            next_port: 0,
            complaints: BTreeSet::new(),
        }
    }

    /// Follows the records until the VMM is gone.
    pub fn follow(mut self) {
        loop {
            // Watched before it is looked at, so that nothing comes in between.
            let watch = self.watch().ok();
            let settled = self.settle();
            let wait = if settled && watch.is_some() { None } else { Some(RETRY_INTERVAL) };
            let changed = match &watch {
                Some(watch) => wait_for_change(watch, wait),
                None => {
                    std::thread::sleep(RETRY_INTERVAL);
                    Ok(())
                }
            };
            if changed.is_err() {
                std::thread::sleep(RETRY_INTERVAL);
            }
        }
    }

    fn watch(&self) -> io::Result<std::os::fd::OwnedFd> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes =
            WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::CREATE | WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, records::directory(&self.plan.name), changes | WatchFlags::ONLYDIR)?;
        Ok(watch)
    }

    /// Plugs and unplugs what is due; whether everything is as recorded now.
    fn settle(&mut self) -> bool {
        let wanted = match records::all(&self.plan.name) {
            Ok(wanted) => wanted,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(_) => return false,
        };
        let mut settled = true;
        // A record that was written anew means a tap that was made anew.
        let stale: Vec<_> = self
            .plugged
            .iter()
            .filter(|(id, p)| wanted.get(id) != Some(&p.stamp))
            .map(|(id, _)| *id)
            .collect();
        for link in stale {
            settled &= self.unplug(link);
        }
        for (link, stamp) in wanted {
            if !self.plugged.contains_key(&link) {
                settled &= self.plug(link, stamp);
            }
        }
        settled
    }

    fn plug(&mut self, link: LinkId, stamp: Stamp) -> bool {
        let result = match self.free_port() {
            Some(port) => {
                self.hypervisor.plug(&self.plan, &self.sockets, port, link, PLUG_TIMEOUT).map(|()| port)
            }
            None => Err(io::Error::other(format!(
                "all {} ports for clients are in use or lost: choose more (link-ports), and restart this VM",
                self.plan.link_ports
            ))),
        };
        match result {
            Ok(port) => {
                self.plugged.insert(link, Plugged { port, stamp });
                self.complaints.remove(&link);
                say(&self.plan.name, &format!("link {link} is plugged in"));
                true
            }
            Err(error) => {
                // Said once, tried again and again.
                if self.complaints.insert(link) {
                    say(&self.plan.name, &format!("link {link} cannot be plugged in: {error}"));
                }
                false
            }
        }
    }

    fn unplug(&mut self, link: LinkId) -> bool {
        let Some(Plugged { port, .. }) = self.plugged.remove(&link) else { return true };
        match self.hypervisor.unplug(&self.plan, &self.sockets, port, link, UNPLUG_TIMEOUT) {
            Ok(Unplugged::Free) => say(&self.plan.name, &format!("link {link} is unplugged")),
            Ok(Unplugged::Lost) => {
                self.lost.insert(port, link);
                let text = format!(
                    "link {link}: the guest does not let go of its interface; its port is lost until it does"
                );
                say(&self.plan.name, &text);
            }
            Err(error) => {
                self.lost.insert(port, link);
                say(&self.plan.name, &format!("link {link} cannot be unplugged, its port is lost: {error}"));
            }
        }
        true
    }

    /// Takes back the ports that were lost and are free now: a guest that boots is
    /// slow, and one that is reset lets go of everything.
    fn reclaim(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        let is_lost = |(port, link): &(usize, LinkId)| {
            let asked = self.hypervisor.unplug(&self.plan, &self.sockets, *port, *link, RECLAIM_TIMEOUT);
            !matches!(asked, Ok(Unplugged::Free))
        };
        self.lost = lost.into_iter().filter(is_lost).collect();
    }

    fn free_port(&mut self) -> Option<usize> {
        let Some(ports) = self.hypervisor.ports(&self.plan) else {
            self.next_port += 1;
            return Some(self.next_port);
        };
        self.reclaim();
        let used: BTreeSet<_> =
            self.plugged.values().map(|p| p.port).chain(self.lost.keys().copied()).collect();
        (0..ports).find(|port| !used.contains(port))
    }
}

/// Waits until something has changed, or for `timeout`, and takes the notices.
fn wait_for_change(watch: &std::os::fd::OwnedFd, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref()))?;
    Ok(())
}
