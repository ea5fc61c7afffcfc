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
use crate::hypervisor::running::{Attachment, Unplugged};
use crate::link::id::LinkId;
use crate::link::records::{self, Stamp};
use crate::plan::Plan;
use crate::system::poll;

/// How long a VMM may take to plug an interface in.
const PLUG_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guest may take to release an interface.
const UNPLUG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to ask for one lost port.
const RECLAIM_TIMEOUT: Duration = Duration::from_millis(100);
/// How long until a failed step is tried again, and records are looked for.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The links of a running VM's clients.
pub(super) struct Links {
    plan: Plan,
    /// What is plugged in, and the stamp of its record.
    plugged: BTreeMap<LinkId, (Attachment, Stamp)>,
    /// What guests have not released in time.
    lost: Vec<Attachment>,
    /// The last number given, where each interface gets a new one.
    last_port: usize,
    /// The links whose failure was reported already.
    reported: BTreeSet<LinkId>,
}

impl Links {
    pub fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            plugged: BTreeMap::new(),
            lost: Vec::new(),
            last_port: 0,
            reported: BTreeSet::new(),
        }
    }

    /// Follows the records until the VMM with this pidfd has ended: another one that runs
    /// the VM begins with none of them plugged in.
    pub fn follow(mut self, vmm: impl AsFd) {
        loop {
            // Watched before they are read, so that no change is missed.
            let watch = self.watch();
            let wait = if self.settle() { None } else { Some(RETRY_INTERVAL) };
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

    /// Plugs and unplugs what is due; returns whether everything is as recorded.
    fn settle(&mut self) -> bool {
        let wanted = match records::all(&self.plan.name) {
            Ok(wanted) => wanted,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(_) => return false,
        };
        // A record that was replaced means that its tap was, too.
        let stale = |(link, (_, stamp)): &(&LinkId, &(_, Stamp))| wanted.get(link) != Some(stamp);
        let stale: Vec<_> = self.plugged.iter().filter(stale).map(|(link, _)| *link).collect();
        stale.into_iter().for_each(|link| self.unplug(link));
        let mut settled = true;
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
                let attachment = Attachment { link, port };
                hypervisor::running(&self.plan, PLUG_TIMEOUT).plug(attachment).map(|()| attachment)
            }
            None => Err(io::Error::other(format!(
                "all {} ports for clients are in use or lost: choose more (link-ports), and restart this VM",
                self.plan.link_ports
            ))),
        };
        match result {
            Ok(attachment) => {
                self.plugged.insert(link, (attachment, stamp));
                self.reported.remove(&link);
                say(&self.plan.name, &format!("link {link} is plugged in"));
                true
            }
            Err(error) => {
                // Reported once, though tried again and again.
                if self.reported.insert(link) {
                    say(&self.plan.name, &format!("link {link} cannot be plugged in: {error}"));
                }
                false
            }
        }
    }

    fn unplug(&mut self, link: LinkId) {
        let Some((attachment, _)) = self.plugged.remove(&link) else { return };
        let text = match hypervisor::running(&self.plan, UNPLUG_TIMEOUT).unplug(attachment) {
            Ok(Unplugged::Free) => format!("link {link} is unplugged"),
            Ok(Unplugged::Lost) => {
                self.lost.push(attachment);
                format!(
                    "link {link}: the guest does not release its interface; its port is lost until it does"
                )
            }
            Err(error) => {
                self.lost.push(attachment);
                format!("link {link} cannot be unplugged, its port is lost: {error}")
            }
        };
        say(&self.plan.name, &text);
    }

    /// Takes back the lost ports that are free now: a booting guest is slow, and
    /// one that is reset releases everything.
    fn reclaim(&mut self) {
        self.lost.retain(|attachment| {
            let asked = hypervisor::running(&self.plan, RECLAIM_TIMEOUT).unplug(*attachment);
            !matches!(asked, Ok(Unplugged::Free))
        });
    }

    fn free_port(&mut self) -> Option<usize> {
        let Some(ports) = hypervisor::description(self.plan.hypervisor).ports(&self.plan) else {
            self.last_port += 1;
            return Some(self.last_port);
        };
        self.reclaim();
        let plugged = self.plugged.values().map(|(attachment, _)| attachment);
        let used: BTreeSet<_> = plugged.chain(&self.lost).map(|attachment| attachment.port).collect();
        (0..ports).find(|port| !used.contains(port))
    }
}
