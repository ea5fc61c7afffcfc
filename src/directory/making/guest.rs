// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! The guest package, `guest/` of this project: what a guest does in a Spectrum VM.

/// A file that an image gets.
#[derive(Debug)]
pub(super) struct File {
    /// Its path, without a slash at the beginning.
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) content: &'static str,
}

/// The script, and so the file that tells whether an image has the package.
pub(super) const SCRIPT: &str = "usr/lib/microvm-spectrum/microvm-guest";

macro_rules! file {
    ($directory:literal, $name:literal, $mode:literal) => {
        File {
            path: concat!($directory, $name),
            mode: $mode,
            content: include_str!(concat!("../../../guest/", $name)),
        }
    };
}

/// What every image gets.
pub(super) const FILES: [File; 1] = [file!("usr/lib/microvm-spectrum/", "microvm-guest", 0o755)];

/// What one with systemd gets.
pub(super) const UNITS: [File; 3] = [
    file!("usr/lib/systemd/system/", "microvm-guest-writable.service", 0o644),
    file!("usr/lib/systemd/system/", "microvm-guest.service", 0o644),
    file!("usr/lib/systemd/system/", "microvm-guest-console.service", 0o644),
];

/// The links that enable these units, and those that keep others from both consoles.
pub(super) const UNIT_LINKS: [(&str, &str); 5] = [
    (
        "usr/lib/systemd/system/sysinit.target.wants/microvm-guest-writable.service",
        "../microvm-guest-writable.service",
    ),
    ("usr/lib/systemd/system/multi-user.target.wants/microvm-guest.service", "../microvm-guest.service"),
    (
        "usr/lib/systemd/system/multi-user.target.wants/microvm-guest-console.service",
        "../microvm-guest-console.service",
    ),
    ("etc/systemd/system/serial-getty@hvc0.service", "/dev/null"),
    ("etc/systemd/system/serial-getty@ttyS0.service", "/dev/null"),
];

/// Where systemd is, in an archive of a distribution.
pub(super) const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd", "lib/systemd/systemd"];

/// Where Linux looks for an init (`init/main.c`).
pub(super) const INITS: [&str; 3] = ["sbin/init", "usr/sbin/init", "usr/bin/init"];

/// The directories on which the guest mounts something.
pub(super) const MOUNT_POINTS: [&str; 6] = ["dev", "mnt", "proc", "run", "sys", "tmp"];

/// What the image of a container with its layers has, and a root file system has not.
pub(super) const LAYERS: [&str; 2] = ["oci-layout", "manifest.json"];

/// The file with the tags of the VM's shared directories, a line each.
pub(super) const SHARES: &str = "etc/microvm-spectrum/shares";

/// An identity of the machine, which systemd makes when it starts.
pub(super) const MACHINE_ID: &str = "etc/machine-id";
