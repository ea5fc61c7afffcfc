// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Plugging in the links of a VM's clients, as they come and go.
//!
//! A thread of its own watches the [records](crate::link::records) that root
//! writes, and plugs and unplugs interfaces of the running VMM to match them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::output::say;
use crate::hypervisor;
use crate::hypervisor::RunningVmm;
use crate::hypervisor::running::{Attachment, EXCHANGE_TIMEOUT, Unplugged};
use crate::link::id::LinkId;
use crate::link::records::{self, Stamp};
use crate::plan::Plan;
use crate::system::poll;

/// How long a VMM may take to plug an interface in; a guest is not asked.
const PLUG_TIMEOUT: Duration = EXCHANGE_TIMEOUT;
/// How long a guest may take to release an interface.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a guest may take to release an interface that it should have long ago.
const RECLAIM_TIMEOUT: Duration = Duration::from_millis(100);
/// How long until a failed step is tried again, and records are looked for.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The links of a running VM's clients.
pub(super) struct Links {
    plan: Plan,
    /// Talks to the VMM for at most the given time.
    connect: fn(&Plan, Duration) -> Box<dyn RunningVmm>,
    ports: Option<usize>,
    /// What is plugged in, and what may be: a call that was not answered may come late.
    plugged: BTreeMap<LinkId, Port>,
    /// What guests have not released in time.
    lost: Vec<Attachment>,
    /// The links whose failure was reported already.
    reported: BTreeSet<LinkId>,
}

/// An interface of a link, in its place until the VMM has said that it is gone.
#[derive(Clone, Copy)]
struct Port {
    attachment: Attachment,
    /// The stamp of the link's record.
    stamp: Stamp,
    /// Whether the VMM has said that it is plugged in.
    is_certain: bool,
}

impl Links {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            connect: hypervisor::running,
            ports: hypervisor::description(plan.hypervisor).ports(plan),
            plugged: BTreeMap::new(),
            lost: Vec::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Follows the records until the VMM with this pidfd has ended: another one that runs
    /// the VM begins with none of them plugged in.
    pub fn follow(mut self, vmm: impl AsFd) {
        loop {
            // Watched before they are read, so that no change is missed.
            let watch = self.watch();
            let settled = self.wanted().is_ok_and(|wanted| self.settle(wanted));
            let wait = if settled { None } else { Some(RETRY_INTERVAL) };
            let ended = match watch.and_then(|watch| poll::are_readable([watch.as_fd(), vmm.as_fd()], wait)) {
                Ok([_, ended]) => Ok(ended),
                Err(_) => poll::is_readable(&vmm, Some(RETRY_INTERVAL)),
            };
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => std::thread::sleep(RETRY_INTERVAL),
            }
        }
    }

    fn watch(&self) -> io::Result<OwnedFd> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes =
            WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::CREATE | WatchFlags::DELETE_SELF;
        inotify::add_watch(&watch, records::directory(&self.plan.name), changes | WatchFlags::ONLYDIR)?;
        Ok(watch)
    }

    fn wanted(&self) -> io::Result<BTreeMap<LinkId, Stamp>> {
        match records::all(&self.plan.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            wanted => wanted,
        }
    }

    /// Plugs and unplugs what is due; returns whether everything is as wanted.
    fn settle(&mut self, wanted: BTreeMap<LinkId, Stamp>) -> bool {
        // A record that was replaced means that its tap was, too.
        let stale = |(link, port): &(&LinkId, &Port)| wanted.get(link) != Some(&port.stamp);
        let stale: Vec<_> = self.plugged.iter().filter(stale).map(|(link, _)| *link).collect();
        let mut settled = true;
        for link in stale {
            settled &= self.unplug(link);
        }
        for (link, stamp) in wanted {
            settled &= match self.plugged.get(&link) {
                Some(port) if port.stamp == stamp && port.is_certain => true,
                Some(port) if port.stamp != stamp => false,
                _ => self.plug(link, stamp),
            };
        }
        // A guest that was not ready when it was asked must be asked again.
        self.reclaim();
        settled && self.lost.is_empty()
    }

    fn plug(&mut self, link: LinkId, stamp: Stamp) -> bool {
        // The same one as before: an earlier call may have come late.
        let attachment = self.plugged.get(&link).map(|port| port.attachment);
        let attachment = attachment.or_else(|| Some(Attachment { link, port: self.free_port()? }));
        let result = match attachment {
            Some(attachment) => {
                let plugged = (self.connect)(&self.plan, PLUG_TIMEOUT).plug(attachment);
                self.plugged.insert(link, Port { attachment, stamp, is_certain: plugged.is_ok() });
                plugged
            }
            None => Err(io::Error::other(format!(
                "all {} ports for clients are in use or lost: choose more (link-ports), and restart this VM",
                self.plan.link_ports
            ))),
        };
        match result {
            Ok(()) => {
                self.reported.remove(&link);
                say(&self.plan.name, &format!("link {link} is plugged in"));
                true
            }
            Err(error) => {
                self.report(link, format!("cannot be plugged in: {error}"));
                false
            }
        }
    }

    fn unplug(&mut self, link: LinkId) -> bool {
        let Some(Port { attachment, .. }) = self.plugged.get(&link).copied() else { return true };
        let text = match (self.connect)(&self.plan, UNPLUG_TIMEOUT).unplug(attachment) {
            Ok(Unplugged::Free) => " is unplugged",
            Ok(Unplugged::Lost) => {
                self.lost.push(attachment);
                ": the guest does not release its interface; its port is lost until it does"
            }
            Err(error) => {
                self.report(link, format!("cannot be unplugged: {error}"));
                return false;
            }
        };
        self.plugged.remove(&link);
        self.reported.remove(&link);
        say(&self.plan.name, &format!("link {link}{text}"));
        true
    }

    /// Says once that a link does not work, though it is tried again and again.
    fn report(&mut self, link: LinkId, text: String) {
        if self.reported.insert(link) {
            say(&self.plan.name, &format!("link {link} {text}"));
        }
    }

    /// Takes back the lost ports that are free now: a booting guest is slow, and
    /// one that is reset releases everything.
    fn reclaim(&mut self) {
        let Self { plan, connect, lost, .. } = self;
        lost.retain(|attachment| {
            let asked = connect(plan, RECLAIM_TIMEOUT).unplug(*attachment);
            !matches!(asked, Ok(Unplugged::Free))
        });
    }

    fn free_port(&mut self) -> Option<usize> {
        self.reclaim();
        let plugged = self.plugged.values().map(|port| &port.attachment);
        let used: BTreeSet<_> = plugged.chain(&self.lost).map(|attachment| attachment.port).collect();
        (0..self.ports.unwrap_or(usize::MAX)).find(|port| !used.contains(port))
    }
}

#[cfg(test)]
mod tests;
