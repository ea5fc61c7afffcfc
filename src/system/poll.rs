// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! Waiting for descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Waits until `descriptor` can be read, or has ended, for at most `timeout`;
/// returns whether it can.
///
/// # Errors
/// When `poll` fails.
pub fn is_readable(descriptor: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let [is_readable] = are_readable([descriptor.as_fd()], timeout)?;
    Ok(is_readable)
}

/// Like [`is_readable`], until one of the descriptors can be read; returns for each
/// whether it can.
///
/// # Errors
/// When `poll` fails.
pub fn are_readable<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let mut watched = descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, timeout.as_ref()))?;
    Ok(watched.map(|descriptor| !descriptor.revents().is_empty()))
}
