// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Waiting for one descriptor.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Waits until `descriptor` can be read, or has ended, for at most `timeout`;
/// returns whether it can.
///
/// # Errors
/// When `poll` fails.
pub fn is_readable(descriptor: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, timeout.as_ref()))? > 0)
}
