// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The links of a VMM that answers late, or not at all, or whose guest holds what it has.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::BorrowedFd;

use super::*;
use crate::hypervisor::running::{Console, Started};

/// What a VMM has, and how it behaves.
#[derive(Default)]
struct Vmm {
    devices: BTreeSet<Attachment>,
    /// What the guest holds though it is unplugged.
    held: BTreeSet<Attachment>,
    guest_holds: bool,
    /// Whether it does what it is asked for, and answers too late.
    late: bool,
    /// Whether it does nothing and does not answer.
    silent: bool,
}

thread_local! {
    static VMM: RefCell<Vmm> = RefCell::default();
}

struct Connection;

fn late<T>(vmm: &Vmm, answer: T) -> io::Result<T> {
    if vmm.late { Err(io::ErrorKind::TimedOut.into()) } else { Ok(answer) }
}

impl RunningVmm for Connection {
    fn wait_for_start(
        &self,
        _: BorrowedFd<'_>,
        _: Option<File>,
        _: &mut dyn FnMut() -> bool,
    ) -> io::Result<Started> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn press_power_button(&self) -> io::Result<()> {
        Ok(())
    }

    fn plug(&self, attachment: Attachment) -> io::Result<()> {
        VMM.with_borrow_mut(|vmm| {
            if vmm.silent {
                return Err(io::ErrorKind::TimedOut.into());
            }
            assert!(!vmm.held.contains(&attachment), "a port that the guest holds");
            let of_link = vmm.devices.iter().find(|device| device.link == attachment.link);
            assert!(of_link.is_none_or(|device| *device == attachment), "a second device on one tap");
            vmm.devices.insert(attachment);
            late(vmm, ())
        })
    }

    fn unplug(&self, attachment: Attachment) -> io::Result<Unplugged> {
        VMM.with_borrow_mut(|vmm| {
            if vmm.silent {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if vmm.devices.remove(&attachment) && vmm.guest_holds {
                vmm.held.insert(attachment);
            }
            let freed = if vmm.held.contains(&attachment) { Unplugged::Lost } else { Unplugged::Free };
            late(vmm, freed)
        })
    }

    fn open_console(&self) -> io::Result<Console> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn links(ports: Option<usize>) -> Links {
    VMM.set(Vmm::default());
    let manifest = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/checks/golden/packages/builtin/cloud-hypervisor/share/microvm-spectrum/manifest.json"
    ));
    let plan = Plan::from_manifest(manifest).unwrap();
    Links { ports, connect: |_, _| Box::new(Connection), ..Links::new(&plan) }
}

fn set(change: impl FnOnce(&mut Vmm)) {
    VMM.with_borrow_mut(change);
}

/// The devices of the VMM: links with ports.
fn devices() -> Vec<String> {
    VMM.with_borrow(|vmm| vmm.devices.iter().map(|it| format!("{}-{}", it.link, it.port)).collect())
}

/// Records of these links, each with the inode of its record.
fn records(of: &[(&str, u64)]) -> BTreeMap<LinkId, Stamp> {
    of.iter().map(|(link, inode)| (link.parse().unwrap(), (*inode, None))).collect()
}

#[test]
fn one_device_for_each_link_however_late_the_answers() {
    let mut links = links(None);
    set(|vmm| vmm.late = true);
    for _ in 0..3 {
        assert!(!links.settle(records(&[("a546", 1), ("b547", 1)])));
    }
    assert_eq!(devices(), ["a546-0", "b547-1"]);
    // One client stops, the other gets a new tap, and the VMM has answered neither start.
    for _ in 0..3 {
        assert!(!links.settle(records(&[("b547", 2)])));
    }
    set(|vmm| vmm.late = false);
    assert!(links.settle(records(&[("b547", 2)])));
    assert_eq!(devices(), ["b547-0"]);
    assert!(links.settle(records(&[])));
    assert_eq!(devices(), [""; 0]);
}

#[test]
fn what_a_silent_vmm_was_asked_for_is_asked_for_again() {
    let mut links = links(Some(1));
    assert!(links.settle(records(&[("a546", 1)])));
    set(|vmm| vmm.silent = true);
    assert!(!links.settle(records(&[])));
    assert_eq!(devices(), ["a546-0"]);
    // Its only port is not another link's while it may be in use.
    assert!(!links.settle(records(&[("b547", 1)])));
    set(|vmm| vmm.silent = false);
    assert!(links.settle(records(&[("b547", 1)])));
    assert_eq!(devices(), ["b547-0"]);
}

#[test]
fn a_port_that_a_guest_holds_is_taken_back_when_it_is_free() {
    let mut links = links(None);
    assert!(links.settle(records(&[("a546", 1)])));
    set(|vmm| vmm.guest_holds = true);
    // A new tap: the old interface is on one that is gone. The guest is asked for it again.
    for _ in 0..2 {
        assert!(!links.settle(records(&[("a546", 2)])));
        assert_eq!(devices(), ["a546-1"]);
    }
    set(|vmm| vmm.held.clear());
    assert!(links.settle(records(&[("a546", 2)])));
    assert!(links.settle(records(&[("a546", 2), ("b547", 1)])));
    assert_eq!(devices(), ["a546-1", "b547-0"]);
}
